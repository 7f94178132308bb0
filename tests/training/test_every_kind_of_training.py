"""What holds of every kind of training: checkpoints, callbacks where there are any, one engine under all."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from faultlines.data.spurious import spurious_benchmark
from faultlines.models import CLIP, ImageTower, Representation, SmallCNN, TextTower, TwoLayerReLU
from faultlines.training import (
    ERM,
    EX2L,
    InputGradient,
    fit,
    fit_adam,
    fit_adversarial,
    fit_contrastive,
    fit_ensemble,
    fit_groups,
    seeded,
)
from faultlines.training import checkpoint as checkpoints
from faultlines.training.checkpoint import FOLDER
from faultlines.training.loop import Training


def draws(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Dropout(0.2), nn.Linear(6, 3))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


LABELS = torch.arange(40) % 3
GROUPS = spurious_benchmark("m2m_hard", n_train=2, n_validation=1, n_test=1, size=32)
SIZES = {"embed_dim": 6, "dim": 8, "depth": 1, "heads": 2}


def towers():
    return CLIP(ImageTower(image_size=8, patch_size=4, **SIZES), TextTower(vocabulary=9, context=4, **SIZES))


def classifier():
    model = seeded(net, 0)
    return model, fit(model, draws(40, 4, 4), LABELS, epochs=3, batch_size=16, seed=1)


def vectorised():
    arms = {"a": InputGradient(0.1), "b": InputGradient(0.2)}
    options = {"seeds": [0, 1], "arms": arms, "vectorize": "always", "epochs": 3, "batch_size": 16}
    found = fit_ensemble(plain, draws(40, 4, 4), LABELS, **options)
    return nn.ModuleList(found.members()), found.histories["b"][1]


def groups(objective):
    found = fit_groups(
        lambda k: SmallCNN(classes=k), GROUPS.train, objective=objective, epochs=3, batch_size=8, device="cpu",
        validation={"held": GROUPS.validation}, select=("held", "worst"),
    )  # fmt: skip
    return nn.ModuleList([found.model, found.loss]), found.history


def contrastive():
    tokens = torch.tensor([[1, 2, 8, 0], [1, 3, 8, 0], [1, 4, 8, 0], [1, 5, 8, 0], [1, 6, 8, 0]])
    model = seeded(towers, 0)
    return model, fit_contrastive(model, draws(5, 3, 8, 8), tokens, epochs=3, batch_size=2)


def two_layer():
    return TwoLayerReLU(16, 8, generator=torch.Generator().manual_seed(0))


def adam():
    model, generator = two_layer(), torch.Generator().manual_seed(3)
    rows = draws(30, 16).double()
    history = fit_adam(model, rows, rows[:, 0].sign(), epochs=3, batch_size=8, generator=generator)
    model.register_buffer("drawn", generator.get_state())  # the caller's generator ends where it would have
    return model, history


def adversarial():
    model, generator = two_layer(), torch.Generator().manual_seed(3)
    x, y = draws(20, 1, 4, 4).double(), torch.arange(20) % 2
    history = fit_adversarial(
        model, Representation(), x, y, eps=0.1, epochs=3, steps=2, batch_size=8, generator=generator
    )
    model.register_buffer("drawn", generator.get_state())
    return model, history


KINDS = {
    "fit": classifier,
    "fit_ensemble": vectorised,
    "fit_groups": lambda: groups(ERM()),
    "fit_groups eX2L": lambda: groups(EX2L(warmup=0, ramp=0)),
    "fit_contrastive": contrastive,
    "fit_adam": adam,
    "fit_adversarial": adversarial,
}
each_kind = pytest.mark.parametrize("train", KINDS.values(), ids=KINDS)


def same(a, b):
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Killed(Exception):
    """Stands for the signal that ends a job."""


@each_kind
def test_a_killed_training_goes_on_to_the_same_end(train, tmp_path, monkeypatch):
    whole, expected = train()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr("faultlines.training.two_layer.PAUSE", 0.0)
    epochs, original = [], Training._epoch

    def dying(self, epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise Killed
        original(self, epoch)

    monkeypatch.setattr(Training, "_epoch", dying)
    with pytest.raises(Killed):
        train()
    resumed, history = train()
    assert epochs == [0, 1, 2, 2]
    assert same(resumed, whole)
    assert history.loss == expected.loss and history.terms == expected.terms
    again, retold = train()
    assert epochs == [0, 1, 2, 2]  # it was done
    assert same(again, whole) and retold.loss == expected.loss


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def damage(path, kind):
    content = path.read_bytes()
    state = torch.load(path, weights_only=True)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("<<<<<<< HEAD")
    elif kind == "a list":
        torch.save([1, 2], path)
    elif kind == "no run":
        torch.save({"model": {}}, path)
    elif kind == "nothing but the run":
        torch.save({"run": state["run"]}, path)
    elif kind == "other shapes":
        held = {name: torch.zeros(2, 2) for name in state["model"]} | {"one too many": torch.zeros(1)}
        torch.save(state | {"model": held}, path)
    elif kind == "another number":
        torch.save(state | {"history": state["history"] | {"loss": [0.5]}}, path)
    elif kind == "no history":
        torch.save(state | {"history": state["history"] | {"loss": "abc"}}, path)
    elif kind == "another optimizer":
        torch.save(
            state | {"optimizer": {"state": {0: {"step": torch.ones(3, 3)}}, "param_groups": []}}, path
        )
    elif kind == "code":
        path.write_bytes(pickle.dumps(Evil(path.with_name("owned"))))


DAMAGE = (
    "empty", "truncated", "text", "a list", "no run", "nothing but the run", "other shapes", "code",
    "another number", "no history", "another optimizer",
)  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
@each_kind
def test_a_damaged_checkpoint_is_set_aside_and_the_run_trains_again(train, kind, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    whole, _ = train()
    (path,) = tmp_path.glob("*.pt")
    damage(path, kind)
    with pytest.warns(UserWarning, match="cannot be read") as told:
        again, _ = train()
    assert len([w for w in told if "cannot be read" in str(w.message)]) == 1
    assert "\n" not in str(told[0].message)
    assert same(again, whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, path.name + ".damaged"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train()  # whose file is whole again


@each_kind
def test_what_killed_processes_left_is_cleaned(train, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    host = socket.gethostname()
    left = [
        "0123456789abcdef" * 2 + ".pt.part",
        "0123456789abcdef" * 2 + ".pt.lock",
        f"b.pt.{dead.stdout.strip()}@{host}.0a1b2c3d.part",
    ]
    others = [
        "notes.part",
        "a download.pt.part",
        "uv.lock",
        f"c.pt.{os.getpid()}@{host}.0a1b2c3d.part",
        "d.pt.1@elsewhere.0a1b2c3d.part",
    ]
    for name in left + others:
        (tmp_path / name).touch()
    train()
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)


SHARED = """
import sys, torch
from torch import nn
from faultlines.training import fit, seeded
x = torch.rand(400, 16, generator=torch.Generator().manual_seed(0))
model = seeded(lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)), 0)
fit(model, x, torch.arange(400) % 3, epochs=60, batch_size=16)
print(float(sum(p.double().sum() for p in model.parameters())))
"""


def test_two_processes_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert len(list(tmp_path.iterdir())) == 1


def test_two_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path, seen, original = tmp_path / "one.pt", [], torch.save

    def slow(state, beside):
        original(state, beside)
        if not seen:  # the other process writes while this one is between its two steps
            seen.append(beside)
            checkpoints.save(path, {"run": {}, "by": 2})

    monkeypatch.setattr(torch, "save", slow)
    checkpoints.save(path, {"run": {}, "by": 1})
    assert checkpoints.load(path, {})["by"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["one.pt"]


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        fit(net(), draws(40, 4, 4), LABELS, epochs=1, batch_size=8, checkpoint=tmp_path)
