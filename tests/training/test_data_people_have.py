"""Precisions, labels, batches, loaders and devices as people have them: they work, or one line says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from faultlines.data.spurious import spurious_benchmark
from faultlines.training import (
    CORAL,
    ERM,
    EX2L,
    IRM,
    JTT,
    Adversarial,
    Arm,
    Cell,
    CropFlip,
    CrossEntropy,
    GroupDRO,
    InputGradient,
    MapSteadiness,
    MaskOracle,
    Mixup,
    Reweighting,
    choose_device,
    fit,
    fit_ensemble,
    fit_groups,
    seeded,
)
from faultlines.training.groups import score
from faultlines.training.matched_loss import fit_matched
from faultlines.training.objectives.input_penalties import CurvaturePenalty

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


FORMS = {
    "tuple": lambda z: (z, None),
    "mapping": lambda z: {"logits": z, "loss": z.sum()},
    "object": lambda z: SimpleNamespace(logits=z),
}
OBJECTIVES = {
    "cross-entropy": CrossEntropy(),
    "adversarial": Adversarial(0.1, steps=1),
    "input gradient": InputGradient(0.1),
    "curvature": CurvaturePenalty(0.1),
    "steadiness": MapSteadiness(0.1),
}


class Wrapped(nn.Module):
    """Hands its logits on in another form."""

    def __init__(self, form, model):
        super().__init__()
        self.model, self.form = model, form

    def forward(self, x):
        return self.form(self.model(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_logits_in_another_form_are_trained_on(objective, form):
    settings = {"objective": OBJECTIVES[objective], "validation": (X, Y), "stop_at_loss": 1e-3, "epochs": 2}
    found = with_fit(X, Y, lambda: Wrapped(FORMS[form], net()), **settings)
    expected = with_fit(X, Y, lambda: Wrapped(lambda z: z, net()), **settings)
    for name in ("loss", "training_loss", "validation_loss", "validation_accuracy"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("train", [with_ensemble, at_once, matched], ids=lambda f: f.__name__)
def test_logits_in_another_form_are_trained_on_at_once(train, form):
    found = train(X, Y, lambda: Wrapped(FORMS[form], net()))
    if train is not matched:
        assert torch.equal(found(X), train(X, Y)(X))


@EVERY
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_autograd_mode_of_the_caller_does_not_matter(train, mode):
    x, y, model = X, Y, seeded(net, 0)
    with mode():
        if train is with_fit:
            fit(model, x.clone(), y.clone(), epochs=1, batch_size=16)
        else:
            train(x.clone(), y.clone())
    if train is with_fit:
        expected = seeded(net, 0)
        fit(expected, x, y, epochs=1, batch_size=16)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_weights_made_in_inference_mode_are_named():
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="weights were made under"),
    ):
        fit(net(), X, Y, epochs=1, batch_size=16)


NUMBERS = {
    "epochs": np.int64(2), "batch_size": np.int64(16), "lr": np.float32(0.125), "weight_decay": np.float64(0.5),
    "warmup": np.float32(0.25), "grad_clip": np.float32(1), "seed": np.int32(3), "momentum": np.float16(0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_are_numbers(name):
    given, plain = {name: NUMBERS[name]}, {name: NUMBERS[name].item()}
    assert with_fit(X, Y, **given).loss == with_fit(X, Y, **plain).loss


def test_seeds_and_cells_of_numpy():
    seeds = np.arange(2)
    assert [run.seed for run in fit_matched(
        net, X, Y, cells=[Cell(np.float32(0.125), np.int64(16))], seeds=seeds, stop_at_loss=1e-3, epochs=1,
        stop_every=np.int64(2),
    )] == [0, 1]  # fmt: skip
    found, expected = (with_ensemble(X, Y, seeds=given) for given in (seeds, [0, 1]))
    assert torch.equal(found(X), expected(X))


# group data


GROUPS = spurious_benchmark("m2m_hard", n_train=2, n_validation=1, n_test=1, size=32)
GROUP_OBJECTIVES = {
    "erm": ERM(), "reweighting": Reweighting(), "dro": GroupDRO(), "jtt": JTT(), "coral": CORAL(), "irm": IRM(),
    "mixup": Mixup(), "mask": MaskOracle(warmup=0, ramp=0), "ex2l": EX2L(warmup=0, ramp=0),
}  # fmt: skip


class GroupNet(nn.Module):
    """A network that averages its features, whatever it hands its logits on in."""

    def __init__(self, classes, form=lambda z: z, norm=False):
        super().__init__()
        self.features, self.form = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()), form
        self.norm, self.head = nn.BatchNorm1d(4) if norm else nn.Identity(), nn.Linear(4, classes)

    def forward(self, x):
        return self.form(self.head(self.norm(self.features(x).mean(dim=(2, 3)))))


def with_groups(data=GROUPS.train, make=GroupNet, **settings):
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "validation": {"held": GROUPS.validation}}
    return fit_groups(make, data, **(options | settings)).history


def group_data(**changed):
    kept = {name: getattr(GROUPS.train, name) for name in ("x", "y", "c", "mask")}
    return SimpleNamespace(**(kept | changed))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("objective", GROUP_OBJECTIVES)
def test_logits_in_another_form_are_trained_on_by_groups(objective, form):
    found = with_groups(objective=GROUP_OBJECTIVES[objective], make=lambda k: GroupNet(k, FORMS[form]))
    expected = with_groups(objective=GROUP_OBJECTIVES[objective])
    assert (found.loss, found.worst) == (expected.loss, expected.worst)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_group_images_get_the_precision_of_the_model(dtype):
    with_groups(group_data(x=GROUPS.train.x.to(dtype)))
    with_groups(make=lambda k: GroupNet(k).to(torch.float64), objective=JTT())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_group_labels_of_every_integer(dtype):
    data = group_data(y=GROUPS.train.y.to(dtype), c=GROUPS.train.c.to(dtype))
    assert (
        with_groups(data, objective=GroupDRO()).loss == with_groups(group_data(), objective=GroupDRO()).loss
    )


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_last_batch_of_one_is_refused_for_groups_too(batch_size, loaded):
    d = GROUPS.train
    assert len(d.y) % 5 == 1 or batch_size == 1
    data = DataLoader(TensorDataset(d.x, d.y, d.c), batch_size=batch_size) if loaded else d
    with pytest.raises(
        ValueError, match=f"batch_size={batch_size} leaves a batch of one of {len(d.y)} samples"
    ):
        with_groups(data, lambda k: GroupNet(k, norm=True), batch_size=batch_size)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_groups_are_trained_on_in_any_mode(mode):
    with mode():
        found = with_groups().loss
    assert found == with_groups().loss


def test_a_network_that_answers_nan_has_no_accuracy():
    class Broken(GroupNet):
        def forward(self, x):
            return super().forward(x) / (1 if self.training else 0) * 0

    with pytest.raises(ValueError, match="answers NaN to"):
        score(Broken(2).eval(), GROUPS.validation, torch.device("cpu"))
    with pytest.raises(FloatingPointError, match=r"answers NaN to .* of 'held'"):
        with_groups(make=Broken)


def test_nan_is_no_accuracy_of_a_classifier():
    class Broken(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) + (0 if self.training else torch.nan)

    assert np.isnan(with_fit(X, Y, lambda: Broken(64, 3), validation=(X, Y)).validation_accuracy).all()


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
