"""Checkpoints written here by networks that have the public names and share no code with the library."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from faultlines.models.clip_checkpoints import CLIP_PIXELS, load_clip, load_published
from faultlines.models.pixel_normalization import IMAGENET_PIXELS
from faultlines.models.weight_files import convert_checkpoint, main, read_state

DIM, HEADS, EMBED, CONTEXT, VOCABULARY = 16, 4, 6, 5, 11
HEADS_GIVEN = {"image_heads": HEADS, "text_heads": HEADS}


class Attn(nn.Module):
    """Differential attention as in DiffCLIP's code."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.diff_norm = nn.RMSNorm(2 * DIM // HEADS, eps=1e-5)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            setattr(self, name, nn.Parameter(torch.randn(DIM // HEADS)))

    def forward(self, x, mask):
        (b, n, _), d = x.shape, DIM // HEADS
        q, k = (p(x).view(b, n, HEADS, d).transpose(1, 2) for p in (self.q_proj, self.k_proj))
        v = self.v_proj(x).view(b, n, HEADS // 2, 2 * d).transpose(1, 2)
        scores = q @ k.mT / math.sqrt(d) + (0 if mask is None else mask)
        maps = scores.softmax(-1).view(b, HEADS // 2, 2, n, n)
        lam = (self.lambda_q1 @ self.lambda_k1).exp() - (self.lambda_q2 @ self.lambda_k2).exp() + 0.8
        out = self.diff_norm((maps[:, :, 0] - lam * maps[:, :, 1]) @ v) * (1 - 0.8)
        return self.out_proj(out.transpose(1, 2).reshape(b, n, DIM))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual block under open_clip's names (text) or timm's (DiffCLIP's image tower)."""

    def __init__(self, differential, timm, quick):
        super().__init__()
        self.norms, self.differential = ("norm1", "norm2") if timm else ("ln_1", "ln_2"), differential
        for name in self.norms:
            setattr(self, name, nn.LayerNorm(DIM))
        self.attn = Attn() if differential else nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        names = ("fc1", "fc2") if timm else ("c_fc", "c_proj")
        self.mlp = nn.ModuleDict({names[0]: nn.Linear(DIM, 24), names[1]: nn.Linear(24, DIM)})
        self.act = QuickGELU() if quick else nn.GELU()

    def forward(self, x, mask):
        z = getattr(self, self.norms[0])(x)
        x = x + (self.attn(z, mask) if self.differential else self.attn(z, z, z, attn_mask=mask)[0])
        first, second = self.mlp.values()
        return x + second(self.act(first(getattr(self, self.norms[1])(x))))


class Public(nn.Module):
    """CLIP as open_clip names it, or DiffCLIP as its authors do."""

    def __init__(self, differential, quick=False):
        super().__init__()
        self.differential = differential
        self.visual, self.transformer = nn.Module(), nn.Module()
        v, tokens = self.visual, 5
        blocks = nn.ModuleList(
            Block(differential, differential, quick and not differential) for _ in range(2)
        )
        text = nn.ModuleList(Block(differential, False, quick or differential) for _ in range(3))
        if differential:
            v.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, DIM, 4, 4)})
            v.cls_token = nn.Parameter(torch.randn(1, 1, DIM))
            v.pos_embed = nn.Parameter(torch.randn(1, tokens, DIM))
            v.blocks, v.norm = blocks, nn.LayerNorm(DIM)
            self.image_projection = nn.Parameter(torch.randn(DIM, EMBED))
        else:
            v.conv1 = nn.Conv2d(3, DIM, 4, 4, bias=False)
            v.class_embedding = nn.Parameter(torch.randn(DIM))
            v.positional_embedding = nn.Parameter(torch.randn(tokens, DIM))
            v.ln_pre, v.ln_post = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
            v.transformer = nn.ModuleDict({"resblocks": blocks})
            v.proj = nn.Parameter(torch.randn(DIM, EMBED))
        self.transformer.resblocks = text
        self.token_embedding = nn.Embedding(VOCABULARY, DIM)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, DIM))
        self.ln_final = nn.LayerNorm(DIM)
        self.text_projection = nn.Parameter(torch.randn(DIM, EMBED))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        for name, p in self.named_parameters():
            if "ln" in name or "norm" in name:  # away from ones and zeros, which would hide a swapped name
                nn.init.uniform_(p, 0.5, 1.5)

    def forward(self, x, tokens):
        v = self.visual
        mean, std = (
            torch.tensor(s).view(3, 1, 1) for s in (IMAGENET_PIXELS if self.differential else CLIP_PIXELS)
        )
        x = (x - mean) / std
        conv = v.patch_embed["proj"] if self.differential else v.conv1
        x = conv(x).flatten(2).mT
        first = v.cls_token if self.differential else v.class_embedding.view(1, 1, -1)
        x = torch.cat([first.expand(len(x), -1, -1), x], 1)
        x = x + v.pos_embed if self.differential else v.ln_pre(x + v.positional_embedding)
        for block in v.blocks if self.differential else v.transformer["resblocks"]:
            x = block(x, None)
        x = v.norm(x)[:, 0] @ self.image_projection if self.differential else v.ln_post(x[:, 0]) @ v.proj
        t = self.token_embedding(tokens) + self.positional_embedding
        mask = torch.full((CONTEXT, CONTEXT), -math.inf).triu(1)
        for block in self.transformer.resblocks:
            t = block(t, mask)
        t = self.ln_final(t)[torch.arange(len(t)), tokens.argmax(1)] @ self.text_projection
        return self.logit_scale.exp() * F.normalize(x, dim=1) @ F.normalize(t, dim=1).T


@pytest.fixture
def data():
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([[1, 4, 10, 0, 0], [1, 2, 3, 10, 0], [1, 10, 0, 0, 0], [1, 2, 2, 3, 10]])


def public(differential, quick=False):
    torch.manual_seed(0)
    return Public(differential, quick).eval()


def training_checkpoint(model):
    """What the authors' training script saves, with DataParallel's prefix."""
    return {
        "epoch": 40,
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "args": argparse.Namespace(lr=5e-4, output_dir=pathlib.PurePosixPath("/tmp/run"), model="diff"),
        "best_acc1": np.float64(0.25),
    }


@pytest.mark.parametrize("quick", [False, True])
def test_open_clip_names(tmp_path, data, quick):
    model = public(False, quick)
    torch.save(model.state_dict(), tmp_path / "open_clip.pt")
    loaded = load_clip(tmp_path / "open_clip.pt", activation="quick_gelu" if quick else "gelu", **HEADS_GIVEN)
    assert not loaded.training
    with torch.no_grad():
        assert torch.allclose(loaded(*data), model(*data), atol=2e-5)
    other = load_clip(tmp_path / "open_clip.pt", activation="gelu" if quick else "quick_gelu", **HEADS_GIVEN)
    with torch.no_grad():
        assert not torch.allclose(other(*data), model(*data), atol=1e-4)


def test_a_training_checkpoint_is_refused_converted_and_loaded(tmp_path, data, capsys):
    model, source, target = public(True), tmp_path / "checkpoint_best.pt", tmp_path / "diffclip.safetensors"
    torch.save(training_checkpoint(model), source)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(source, weights_only=True)
    with pytest.raises(ValueError, match=r"faultlines\.models\.weight_files .*checkpoint_best\.pt"):
        load_clip(source)
    main([str(source), str(target)])
    told = capsys.readouterr().out
    assert "restricted unpickler" in told and "argparse.Namespace" in told and "PurePosixPath" in told
    with pytest.raises(pickle.UnpicklingError):  # the stand-ins are gone again
        torch.load(source, weights_only=True)
    written = read_state(target)
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in written.items())
    with torch.no_grad():
        assert torch.allclose(load_clip(target, **HEADS_GIVEN)(*data), model(*data), atol=2e-5)


class Attack:
    """A pickle that would leave a file behind if anything it names were called."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_conversion_runs_nothing_of_the_file(tmp_path):
    mark, there = tmp_path / "was_here", tmp_path / "there"
    there.write_text("")
    content = {"state_dict": {"w": torch.ones(2)}, "extra": Attack(shutil.copyfile, str(there), str(mark))}
    torch.save(content, tmp_path / "bad.pt")
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert mark.exists()  # it does work on the ordinary unpickler
    mark.unlink()
    replaced = convert_checkpoint(tmp_path / "bad.pt", tmp_path / "good.safetensors")
    assert replaced == ["shutil.copyfile"] and not mark.exists()
    assert torch.equal(read_state(tmp_path / "good.safetensors")["w"], torch.ones(2))
    # what is called without a name of its own, and system modules, are refused even so
    for payload in (Attack(pathlib.Path.touch, mark), Attack(os.mkdir, str(mark))):
        torch.save(content | {"extra": payload}, tmp_path / "worse.pt")
        with pytest.raises(ValueError, match="cannot be read with stand-ins"):
            convert_checkpoint(tmp_path / "worse.pt", tmp_path / "worse.safetensors")
        assert not mark.exists()


def test_errors(tmp_path):
    state = public(False).state_dict()
    cases = {
        "neither 'visual.conv1.weight'": {"weight": torch.ones(1)},
        "visual.extra": state | {"visual.extra.weight": torch.ones(1)},
        "attn.gate": state | {"transformer.resblocks.0.attn.gate": torch.ones(1)},
        "nothing in it is our 'text.position'": {
            k: v for k, v in state.items() if k != "positional_embedding"
        },
        "does not fit": {k: v for k, v in state.items() if k != "ln_final.bias"},
        "no tensors": {"epoch": 3},
    }
    for words, content in cases.items():
        torch.save(content, tmp_path / "case.pt")
        with pytest.raises(ValueError, match=words):
            load_clip(tmp_path / "case.pt", **HEADS_GIVEN)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        convert_checkpoint(tmp_path / "text.pt", tmp_path / "x.safetensors")


@pytest.fixture
def folder(tmp_path):
    torch.save(public(False).state_dict(), tmp_path / "clip.pt")
    save_file(public(True).state_dict(), tmp_path / "diffclip.safetensors")
    save_file(
        {"tokens": torch.tensor([[1, 4, 10, 0, 0], [1, 2, 10, 0, 0]])}, tmp_path / "prompts.safetensors"
    )
    return tmp_path


def test_a_folder_of_published_checkpoints_becomes_two_classifiers(folder, data):
    x, tokens = data[0], torch.tensor([[1, 4, 10, 0, 0], [1, 2, 10, 0, 0]])
    found = load_published(folder, **HEADS_GIVEN)
    assert list(found) == ["CLIP", "DiffCLIP"]
    for model, theirs in zip(found.values(), (public(False), public(True)), strict=True):
        assert not model.training
        with torch.no_grad():
            assert torch.allclose(model(x), theirs(x, tokens), atol=2e-5)


@pytest.mark.parametrize("name", ["clip.pt", "diffclip.safetensors", "prompts.safetensors"])
def test_a_folder_that_lacks_a_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_published(folder, **HEADS_GIVEN)


def test_prompts_that_are_no_tokens(folder):
    save_file({"tokens": torch.rand(2, 5)}, folder / "prompts.safetensors")
    with pytest.raises(ValueError, match="must hold `tokens`, integers"):
        load_published(folder, **HEADS_GIVEN)
