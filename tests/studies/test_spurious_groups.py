from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from faultlines.data.spurious import spurious_benchmark
from faultlines.estimators import grad_cam, linear_probe
from faultlines.models import SmallCNN
from faultlines.studies import run_methods, with_ood_validation
from faultlines.studies.spurious_groups import features_of, outcome
from faultlines.training import ERM, EX2L, fit_groups

CPU = torch.device("cpu")


def make(classes):
    return SmallCNN(classes=classes, width=2)


@pytest.fixture(scope="module")
def data():
    return spurious_benchmark(
        "m2m_hard", n_train=4, n_validation=3, n_ood_validation=3, n_test=4, size=32, patch=20
    )


def test_methods_are_paired_and_measured_as_fitted(data):
    options = {"epochs": 3, "batch_size": 8}
    found = run_methods(
        make, data, {"ERM": ERM(), "no penalty": EX2L(0.0)}, seed=3, device=CPU, watch=["ERM"], **options
    )
    assert not found["no penalty"].history.average
    assert found["ERM"].history.worst["test"][-1] == found["ERM"].worst
    erm, same = found["ERM"], found["no penalty"]
    for name in ("average", "worst", "validation", "energy", "coverage", "empty", "background", "within"):
        assert getattr(erm, name) == getattr(same, name)
    assert math.isnan(erm.overlap) and 0 <= same.overlap <= 1
    model = fit_groups(make, data.train, seed=3, **options).model
    held = [data.validation, data.ood_validation]
    read = [
        linear_probe(
            torch.cat([features_of(model, part[part.y == k], CPU) for part in held]),
            torch.cat([part.c[part.y == k] for part in held]),
        )
        for k in range(4)
    ]
    assert erm.within == pytest.approx(sum(read) / 4)
    right = model(data.test.x).argmax(1) == data.test.y
    assert erm.average == pytest.approx(right.double().mean().item())
    cells = [right[(data.test.y == y) & (data.test.c == c)] for y in range(4) for c in range(6)]
    assert erm.worst == pytest.approx(min(cell.double().mean().item() for cell in cells if len(cell)))


def test_maps_are_measured_against_the_masks(data):
    class Inside(nn.Module):
        """A network whose evidence for class 0 is the foreground itself."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 2)
            nn.init.constant_(self.head.weight, 1.0)
            nn.init.zeros_(self.head.bias)
            with torch.no_grad():
                self.head.weight[1] = -1.0

        def features(self, x):
            return x[:, :1]

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))

    images = replace(data.test, x=data.test.mask[:, None].float().expand(-1, 3, -1, -1), y=0 * data.test.y)
    seen = replace(data, test=images)
    fit = fit_groups(make, data.train, epochs=1, batch_size=8)
    fit.model.features, fit.model.head = Inside().features, Inside().head
    found = outcome(fit, seen, CPU)
    assert found.energy == 1 and found.empty == 0
    area = data.test.mask.float().mean().item()
    assert found.coverage == pytest.approx(area, abs=1e-6)


def test_the_confounder_is_measured_on_its_own_labels(data):
    fit = fit_groups(make, data.train, epochs=25, batch_size=8, lr=0.02, objective=EX2L(0.0))
    found = outcome(fit, data, CPU)
    numbers = {int(c): i for i, c in enumerate(data.train.c.unique())}
    c = torch.tensor([numbers[int(value)] for value in data.validation.c])
    other = fit.loss.confounder
    right = (other(data.validation.x).argmax(1) == c).double().mean().item()
    assert found.confounder_accuracy == pytest.approx(right) and right > 0.5
    maps = [
        grad_cam(m, data.validation.x, t, center=True).flatten(1)
        for m, t in ((fit.model, data.validation.y), (other, c))
    ]
    assert found.overlap == pytest.approx(torch.cosine_similarity(*maps).mean().item())


def test_measuring_keeps_no_graph(data):
    """A graph of a few hundred photographs in a large network is as large as a machine."""
    fit = fit_groups(make, data.train, objective=EX2L(), epochs=1, batch_size=8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        outcome(fit, data, CPU)
    assert not [shape for shape in kept if len(shape) == 4]


def test_features_of_all_images(data):
    model = make(4).eval()
    assert torch.allclose(
        features_of(model, data.test, CPU, batch_size=5), model.features(data.test.x).mean((2, 3)), atol=1e-6
    )


def test_half_of_a_test_set_becomes_validation_where_there_is_none(data):
    assert with_ood_validation(data) is data
    split = with_ood_validation(replace(data, ood_validation=None))
    assert len(split.test) == len(split.ood_validation) == len(data.test) // 2
    assert split.ood_validation.split == "ood_validation" and split.test.split == "test"
    together = torch.cat([split.test.x, split.ood_validation.x]).flatten(1).sum(1).sort().values
    assert torch.allclose(together, data.test.x.flatten(1).sum(1).sort().values)


def test_without_masks_the_energy_is_unknown(data):
    found = run_methods(
        make,
        replace(data, test=replace(data.test, mask=None)),
        {"": ERM()},
        seed=0,
        device=CPU,
        epochs=1,
        batch_size=8,
    )[""]
    assert math.isnan(found.energy) and found.coverage > 0
