"""Precisions, labels, batches, loaders and devices as people have them: they work, or one line says why not."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from faultlines.training import Arm, Cell, CropFlip, CrossEntropy, choose_device, fit, fit_ensemble, seeded
from faultlines.training.matched_loss import fit_matched

X = torch.rand(41, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(41) % 3


def net(normalise=False):
    norm = nn.BatchNorm1d(6) if normalise else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm, nn.ReLU(), nn.Linear(6, 3))


def with_fit(x, y, make=net, **settings):
    return fit(seeded(make, 0), x, y, **({"epochs": 1, "batch_size": 16} | settings))


def with_ensemble(x, y, make=net, **settings):
    options = {"seeds": [0, 1], "arms": {"a": Arm(CrossEntropy())}, "epochs": 1, "batch_size": 16} | settings
    return fit_ensemble(make, x, y, **options)


def at_once(x, y, make=net, **settings):
    return with_ensemble(x, y, make, vectorize="always", **settings)


def matched(x, y, make=net, batch_size=16, **settings):
    return fit_matched(
        make, x, y, cells=[Cell(0.1, batch_size)], seeds=[0], stop_at_loss=1e-3, epochs=1, **settings
    )


EVERY = pytest.mark.parametrize(
    "train", [with_fit, with_ensemble, at_once, matched], ids=lambda f: f.__name__
)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_another_precision_are_trained_on(train, dtype):
    train(X.to(dtype), Y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_keeps_its_own_precision(dtype):
    model = net().to(dtype)
    history = fit(model, X, Y, epochs=2, batch_size=16, validation=(X, Y))
    assert {p.dtype for p in model.parameters()} == {dtype} and len(history.validation_loss) == 2


@EVERY
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_integer_labels_are_labels(train, dtype):
    train(X, Y.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_the_labels_type_moves_no_number(dtype):
    assert (
        with_fit(X, Y.to(dtype), validation=(X, Y.to(dtype))).loss == with_fit(X, Y, validation=(X, Y)).loss
    )


@EVERY
@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        (X.numpy(), Y, TypeError, r"x is of type ndarray; torch\.as_tensor\(x\)"),
        (X, np.arange(41) % 3, TypeError, r"y is of type ndarray; torch\.as_tensor\(y\)"),
        (X, Y.double(), ValueError, "y has shape .* and dtype torch.float64"),
        (X, Y > 0, ValueError, "y has shape .* and dtype torch.bool"),
        ((255 * X).byte(), Y, ValueError, "x has dtype torch.uint8"),
    ],
    ids=["numpy x", "numpy y", "float y", "bool y", "bytes"],
)
def test_what_is_no_training_data_is_one_line(train, x, y, error, match):
    with pytest.raises(error, match=match) as told:
        train(x, y)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("train", [with_fit, with_ensemble, matched], ids=lambda f: f.__name__)
@pytest.mark.parametrize("batch_size", [40, 20, 1])
def test_a_last_batch_of_one_under_batch_normalisation_is_refused_before_training(train, batch_size):
    model = []

    def make():
        model.append(net(normalise=True))
        return model[-1]

    with pytest.raises(ValueError, match=f"batch_size={batch_size} leaves a batch of one of 41 samples"):
        train(X, Y, make, batch_size=batch_size)
    assert int(model[0][2].num_batches_tracked) == 0


@pytest.mark.parametrize("train", [with_fit, with_ensemble, matched], ids=lambda f: f.__name__)
def test_a_last_batch_of_one_with_statistics_is_trained_on(train):
    def make():  # 36 places of one image have a mean and a variance
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))

    train(X, Y, make, batch_size=20)
    train(X, Y, net, batch_size=20)


# loaders


def loader(x=X, y=Y, **options):
    return DataLoader(TensorDataset(x, y), **({"batch_size": 16} | options))


def test_a_loader_in_order_trains_as_its_tensors_do():
    ours, theirs = seeded(net, 0), seeded(net, 0)
    one = fit(ours, X, Y, epochs=3, batch_size=41, validation=(X, Y), stop_at_loss=1e-3)
    other = fit(theirs, loader(batch_size=41), epochs=3, validation=loader(), stop_at_loss=1e-3)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert other.training_loss == pytest.approx(one.training_loss, rel=1e-5)
    assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-5)
    assert other.validation_accuracy == one.validation_accuracy


@pytest.mark.parametrize(
    "options", [{}, {"generator": torch.Generator()}], ids=["global", "its own generator"]
)
def test_an_interrupted_run_over_a_loader_ends_where_the_whole_one_does(tmp_path, options):
    if options:
        options["generator"].manual_seed(7)

    def run(model, **more):
        if options:
            options["generator"].manual_seed(7)
        return fit(model, loader(shuffle=True, **options), epochs=4, augment=CropFlip(1), seed=3, **more)

    whole, path = seeded(net, 0), tmp_path / "run.pt"
    expected = run(whole)

    def interrupt(state):
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(seeded(net, 0), checkpoint=path, callbacks=[interrupt])
    resumed = seeded(net, 9)
    assert run(resumed, checkpoint=path).loss == expected.loss
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_loaders_that_do_not_fit():
    class Endless(IterableDataset):
        def __iter__(self):
            yield X[0], Y[0]

    with pytest.raises(ValueError, match="Endless has no length"):
        fit(net(), DataLoader(Endless()), epochs=1)
    with pytest.raises(ValueError, match="y is given with a DataLoader"):
        fit(net(), loader(), Y, epochs=1)
    with pytest.raises(ValueError, match="batch_size=20 leaves a batch of one of 41 samples"):
        fit(net(True), loader(batch_size=20), epochs=1)
    fit(net(True), loader(batch_size=20, drop_last=True), epochs=1)
    with pytest.raises(TypeError, match="y is of type NoneType"):
        fit(net(), X, epochs=1)


def test_a_loader_gets_no_checkpoint_of_a_name_that_others_share(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))
    fit(net(), loader(), epochs=1)
    assert not list(tmp_path.iterdir())


# devices


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gpu", "no device that torch knows"),
        ("cuda:x", "no device that torch knows"),
        ("", "no device that torch knows"),
        ("cuda:99", "CUDA devices"),
        ("meta", "holds no values"),
        ("privateuseone", "is not there"),
        ("xla", "is not there"),
    ],
)
def test_devices_that_are_not_there(name, match):
    with pytest.raises(ValueError, match=match) as told:
        choose_device(name)
    assert "\n" not in str(told.value)


def test_a_device_is_a_device():
    assert choose_device(torch.device("cpu")) == choose_device("cpu") == torch.device("cpu")


BACKEND = """
import torch
torch.utils.rename_privateuse1_backend("own")
original = torch.empty
torch.empty = lambda *size, device=None, **more: original(*size, **more)  # a backend that is there
from faultlines.training import choose_device
print(choose_device("own:1"))
"""


def test_a_backend_of_ones_own_is_a_device():
    done = subprocess.run([sys.executable, "-c", BACKEND], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "own:1"


def test_auto_sees_what_the_environment_leaves():
    code = "from faultlines.training import choose_device; print(choose_device('auto'))"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "cpu"
