"""Garments before photographs: on data sets whose every image names itself by its brightness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faultlines.data import benchmark_cells, composite_benchmark
from faultlines.data.spurious.grouped import BENCHMARKS

COUNTS = {"n_train": 3, "n_validation": 2, "n_test": 4, "n_ood_validation": 1}
GARMENT, PICTURE = (
    (1, 8, 9, 2),
    (0, 1, 4, 6, 7, 8),
)  # by class and by background, in the order of the loader's names
EACH = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    names = np.array([f"class {k}" for k in range(10)])
    y = np.repeat(np.arange(10), EACH)
    number = np.arange(10 * EACH)
    coded = np.zeros((10 * EACH, 32, 32, 3), np.uint8)  # red: class, green: which, blue: split
    coded[..., 0], coded[..., 1] = (10 * y)[:, None, None], (number % EACH)[:, None, None]
    test = coded.copy()
    test[..., 2] = 200
    np.savez(folder / "cifar10.npz", x_train=coded, y_train=y, x_test=test, y_test=y, classes=names)
    lit = np.zeros((10 * EACH, 28, 28), np.uint8)
    lit[:, 6:22, 6:22] = (100 + 10 * y)[:, None, None]
    np.savez(folder / "fashion_mnist.npz", x_train=lit, y_train=y, x_test=lit, y_test=y, classes=names)
    return folder


def ground(images):
    """Return class, number and split of the picture behind every image, read where no garment is."""
    colour = (255 * images.x[:, :, 0, 0]).round().long()
    return colour[:, 0] // 10, colour[:, 1], colour[:, 2] > 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_groups_are_the_originals_and_the_pictures_theirs(root, name):
    data = composite_benchmark(name, root, **{**COUNTS, "n_train": 8}, seed=3)
    for split, cells, n in (("train", 0, 8), ("validation", 0, 2), ("test", 1, 4), ("ood_validation", 1, 1)):
        images = getattr(data, split)
        expected = [
            (k.y, k.c, k.environment) for k in benchmark_cells(name, n)[cells] for _ in range(k.count)
        ]
        found = torch.stack([images.y, images.c, images.environment], 1).tolist()
        assert sorted(map(tuple, found)) == sorted(expected) and images.split == split
        where, _, held_out = ground(images)
        assert where.tolist() == [PICTURE[c] for c in images.c]
        assert bool((held_out == (split == "test")).all())  # a choice never sees a picture of the test


def test_the_garment_is_the_labels_and_the_mask_its_own(root):
    images = composite_benchmark("m2m_hard", root, **COUNTS, seed=1).train
    side = images.mask.flatten(1).sum(1)
    assert side.unique().numel() == 1 and 12**2 <= int(side[0]) <= 16**2  # 16 of 28 pixels, at 24 of 28
    for x, mask, y in zip(images.x, images.mask, images.y, strict=True):
        inside = x[:, mask].amax(1)  # tints are 0.5 to 1
        lit = (100 + 10 * GARMENT[int(y)]) / 255
        assert bool((inside <= lit + 1e-5).all()) and bool((inside >= 0.5 * lit - 1e-5).all())
    assert len({tuple(m.nonzero()[0].tolist()) for m in images.mask}) > 5  # places differ


def test_no_picture_is_used_twice_and_seeds_differ(root):
    data, same, other = (composite_benchmark("m2m_easy", root, **COUNTS, seed=s) for s in (0, 0, 1))
    parts = [ground(getattr(data, split)) for split in ("train", "validation", "ood_validation", "test")]
    pictures = [pixel for part in parts for pixel in zip(*(t.tolist() for t in part), strict=True)]
    assert len(set(pictures)) == len(pictures)
    assert torch.equal(data.train.x, same.train.x) and not torch.equal(data.train.x, other.train.x)


def test_a_faint_garment_shows_the_picture_behind_it(root):
    full, faint = (composite_benchmark("m2m_hard", root, **COUNTS, opacity=o).train for o in (1.0, 0.25))
    picture = full.x[:, :, :1, :1].expand_as(full.x)  # the pictures are of one colour
    assert torch.allclose(faint.x, picture + 0.25 * (full.x - picture), atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n_train": 0}, "n_train=0"), ({"size": 16}, "size=16"), ({"opacity": 0.0}, "opacity=0.0"),
        ({"n_train": 400}, "are asked for, 40 are there"),
    ],
)  # fmt: skip
def test_refusals(root, wrong, words):
    with pytest.raises(ValueError, match=words):
        composite_benchmark("m2m_hard", root, **COUNTS | wrong)
