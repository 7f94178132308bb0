from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from faultlines.data import benchmark_cells, render_groups, spurious_benchmark
from faultlines.data.spurious.benchmark import expand
from faultlines.data.spurious.grouped import BENCHMARKS
from faultlines.estimators import group_accuracy
from faultlines.models import SmallCNN


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_split_has_exactly_the_cells(name):
    data = spurious_benchmark(name, n_train=34, n_validation=5, n_test=3, n_ood_validation=2, size=32)
    assert data.classes[1] == "corgi" and data.backgrounds[0] == "desert"
    for split, part, n in (("train", 0, 34), ("validation", 0, 5), ("test", 1, 3), ("ood_validation", 1, 2)):
        images = getattr(data, split)
        assert images.split == split
        found = torch.stack([images.y, images.c, images.environment], 1).tolist()
        cells = benchmark_cells(name, n)[part]
        expected = [[cell.y, cell.c, cell.environment] for cell in cells for _ in range(cell.count)]
        assert sorted(found) == sorted(expected)


def test_splits_share_no_image():
    data = spurious_benchmark("m2m_easy", n_train=6, n_validation=6, n_test=6, n_ood_validation=6, size=32)
    parts = (data.train, data.validation, data.test, data.ood_validation)
    masks = [mask.numpy().tobytes() for part in parts for mask in part.mask]
    assert len(set(masks)) == len(masks)


def test_seeded_and_the_dials_reach_every_split():
    kw = {"n_train": 2, "n_validation": 2, "n_test": 2, "size": 32, "noise": 0.0}
    one, same, other, plain = (
        spurious_benchmark("m2m_hard", **kw, **more) for more in ({}, {}, {"seed": 1}, {"bgs": 0.0})
    )
    for split in ("train", "validation", "test"):
        a, b, c, d = (getattr(data, split) for data in (one, same, other, plain))
        assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)
        assert torch.equal(a.mask, d.mask) and not torch.equal(a.x, d.x)
    assert one.ood_validation is None


def test_images_are_taken_by_slice_index_and_mask():
    images = spurious_benchmark("o2o_easy", n_train=40, n_validation=1, n_test=1, size=32).train
    some = torch.tensor([5, 0])
    for index in (slice(3), some, images.y == 2):
        part = images[index]
        assert torch.equal(part.x, images.x[index]) and torch.equal(part.group, images.group[index])
        assert torch.equal(part.mask, images.mask[index]) and part.split == "train"
    assert len(images.to("cpu")) == len(images) == 320


def test_a_network_takes_the_shortcut_and_need_not():
    """Trained on the benchmark it falls below chance on the test, trained on all cells alike it does not."""
    data = spurious_benchmark("m2m_hard", n_train=60, n_validation=20, n_test=20, size=32)
    n = torch.arange(len(data.train))
    fair = render_groups(n % 4, n // 4 % 6, size=32, seed=9)
    found = {}
    for name, images in (("shortcut", data.train), ("fair", fair)):
        torch.manual_seed(0)
        model, order = SmallCNN(classes=4), torch.Generator().manual_seed(0)
        stepper = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(7):
            for index in torch.randperm(len(images), generator=order).split(32):
                stepper.zero_grad()
                F.cross_entropy(model(images.x[index]), images.y[index]).backward()
                stepper.step()
        with torch.no_grad():
            found[name] = [
                group_accuracy(model.eval()(part.x).argmax(dim=1), part.y, part.c).average
                for part in (data.validation, data.test)
            ]
    assert found["shortcut"][0] > 0.85 and found["shortcut"][1] < 0.25
    assert found["fair"][1] > 0.6


def test_expand_of_nothing_in_particular():
    y, c, environment = expand(benchmark_cells("o2o_hard", 2).train)
    assert len(y) == len(c) == len(environment) == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "hard"}, "name='hard' is not one of o2o_easy"),
        ({"n_train": 0}, "n_train=0 must be an integer of at least 1"),
        ({"n_test": 1.5}, "n_test=1.5 must be an integer"),
        ({"n_ood_validation": -1}, "n_ood_validation=-1 must be an integer of at least 0"),
        ({"patch": 3}, "patch=3 must be"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        spurious_benchmark(**{"name": "m2m_hard", "n_train": 1, "n_validation": 1, "n_test": 1, **change})
