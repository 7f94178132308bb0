from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from faultlines.models import ViT
from faultlines.training import CropFlip, CrossEntropy, JaSMin, Objective, fit, seeded
from faultlines.training.optimizer import decays


def vit(**options):
    options = {"dim": 8, "depth": 1, "heads": 2, **options}
    return ViT(image_size=4, patch_size=2, channels=1, classes=3, **options)


def data(n=40, classes=3):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 4, 4, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_tiny_set_is_learned_by_heart(optimizer):
    x, y = data(24)
    model = seeded(lambda: vit(dim=32), 0)
    lr = 5e-3 if optimizer == "adamw" else 0.1
    history = fit(model, x, y, epochs=100, batch_size=24, lr=lr, optimizer=optimizer, weight_decay=0.0)
    assert (model(x).argmax(1) == y).all()
    assert history.loss[-1] < 0.1 < history.loss[0]
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loop_is_the_plain_loop(optimizer):
    x, y = data(20)
    x = x.double()
    model = seeded(vit, 1).double()
    plain = copy.deepcopy(model)
    fit(
        model,
        x,
        y,
        epochs=3,
        batch_size=8,
        lr=0.02,
        optimizer=optimizer,
        weight_decay=0.1,
        warmup=0.0,
        schedule="constant",
        grad_clip=0.5,
        seed=7,
    )
    decayed = [p for p in plain.parameters() if p.ndim > 1 and p is not plain.cls and p is not plain.position]
    others = [p for p in plain.parameters() if all(p is not q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    if optimizer == "adamw":
        stepper = torch.optim.AdamW(groups, lr=0.02, foreach=False)
    else:
        stepper = torch.optim.SGD(groups, lr=0.02, momentum=0.9, foreach=False)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        for index in torch.randperm(20, generator=generator).split(8):
            stepper.zero_grad()
            nn.functional.cross_entropy(plain(x[index]), y[index]).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            stepper.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_weight_decay_leaves_biases_norms_class_token_and_positions_alone():
    names = {name for name, decayed in decays(vit()).items() if decayed}
    assert names == {
        "patch.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.0.weight",
        "blocks.0.mlp.2.weight",
        "head.weight",
    }
    assert not any(decays(nn.LayerNorm([3, 4])).values())  # a norm whose gain is a matrix


class BadAfter(Objective):
    """Cross-entropy that turns into nan."""

    def __init__(self, calls):
        self.left = calls

    def __repr__(self):
        return "BadAfter"

    def __call__(self, model, x, y):
        self.left -= 1
        loss = nn.functional.cross_entropy(model(x), y)
        return (loss if self.left > 0 else loss * math.nan), {}


def test_nan_stops_and_names_step_rate_and_objective():
    x, y = data(20)
    with pytest.raises(FloatingPointError, match=r"nan at step 4 of 9 with lr 0\.02 under BadAfter"):
        fit(
            vit(),
            x,
            y,
            epochs=3,
            batch_size=8,
            lr=0.02,
            warmup=0.0,
            schedule="constant",
            objective=BadAfter(4),
        )


class Interrupted(Exception):
    pass


def interrupt_after(epochs):
    def callback(state):
        if state.epoch == epochs:
            raise Interrupted

    return callback


def dropout_vit():
    model = vit()
    model.head = nn.Sequential(nn.Dropout(0.2), model.head)
    return model


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    x, y = data()
    run = {
        "epochs": 6,
        "batch_size": 16,
        "objective": JaSMin(0.1),
        "seed": 3,
        "augment": CropFlip(1),
        "validation": (x, y),
    }
    whole = seeded(dropout_vit, 3)
    expected = fit(whole, x, y, **run)
    path = tmp_path / "runs" / "one.pt"
    with pytest.raises(Interrupted):
        fit(
            seeded(dropout_vit, 3),
            x,
            y,
            checkpoint=path,
            checkpoint_every=2,
            callbacks=[interrupt_after(5)],
            **run,
        )
    resumed, epochs = seeded(dropout_vit, 99), []
    torch.manual_seed(1234)  # what the caller did to the global generator must not matter
    history = fit(resumed, x, y, checkpoint=path, callbacks=[lambda state: epochs.append(state.epoch)], **run)
    assert epochs == [5, 6]  # from the checkpoint after epoch 4
    assert same(resumed, whole)
    for name in ("loss", "lr", "terms", "validation_loss", "validation_accuracy"):
        assert getattr(history, name) == getattr(expected, name)
    assert [file.name for file in path.parent.iterdir()] == ["one.pt"]

    finished = seeded(dropout_vit, 5)
    fit(finished, x, y, checkpoint=path, **run)  # nothing is left to do
    assert same(finished, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "lr: '0.01' there, '0.5' here"),
        ({"seed": 1}, "seed: '0' there, '1' here"),
        ({"objective": CrossEntropy(0.1)}, "label_smoothing=0.1"),
        ({"epochs": 2}, "epochs: '1' there, '2' here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    x, y = data()
    run = {"epochs": 1, "batch_size": 16, "lr": 0.01, "seed": 0, "checkpoint": tmp_path / "a.pt"}
    fit(vit(), x, y, **run)
    with pytest.raises(ValueError, match=message):
        fit(vit(), x, y, **(run | change))
    with pytest.raises(ValueError, match="data: "):
        fit(vit(), 1 - x, y, **run)
    with pytest.raises(ValueError, match="model: "):
        fit(vit(dim=16), x, y, **run)


def test_same_seed_same_result_and_the_global_generator_is_left_alone():
    x, y = data()
    a, b, c = (seeded(dropout_vit, 0) for _ in range(3))
    before = torch.get_rng_state()
    fit(a, x, y, epochs=2, batch_size=16, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    fit(b, x, y, epochs=2, batch_size=16, seed=1)
    fit(c, x, y, epochs=2, batch_size=16, seed=2)
    assert same(a, b)
    assert not same(a, c)


def test_validation_scores():
    x, y = data()
    model = seeded(vit, 0)
    history = fit(model, x, y, epochs=2, batch_size=16, validation=(x[:10], y[:10]))
    assert history.validation_accuracy[-1] == (model(x[:10]).argmax(1) == y[:10]).double().mean().item()
    expected = nn.functional.cross_entropy(model(x[:10]), y[:10]).item()
    assert history.validation_loss[-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adam"}, "optimizer='adam' is not one of"),
        ({"schedule": "step"}, "schedule='step' is not one of"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 41}, "batch_size=41 exceeds the number of samples, 40"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"grad_clip": 0.0}, "grad_clip=0.0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"y": torch.full((40,), 3)}, "labels from 3 to 3; the model's classes are 0 to 2"),
        ({"y": torch.full((40,), -1)}, "labels from -1"),
        ({"y": torch.zeros(39, dtype=torch.long)}, "40 samples and y 39"),
        ({"y": torch.zeros(40)}, "dtype torch.float32"),
        ({"x": torch.zeros(40, 1, 4, 4, dtype=torch.uint8)}, "dtype torch.uint8"),
        (
            {"validation": (torch.zeros(2, 1, 4, 4), torch.tensor([0, 7]))},
            "validation y holds labels from 0 to 7",
        ),
    ],
)
def test_bad_settings_are_named_before_any_step(change, message):
    x, y = data()
    model = seeded(vit, 0)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        fit(model, **({"x": x, "y": y, "epochs": 1, "batch_size": 8} | change))
    assert same(model, before)


def test_the_bar_is_silent_where_there_is_no_terminal(capsys):
    x, y = data()
    fit(vit(), x, y, epochs=2, batch_size=20)
    assert capsys.readouterr().err == ""
    fit(vit(), x, y, epochs=2, batch_size=20, progress=True)
    assert "training" in capsys.readouterr().err
