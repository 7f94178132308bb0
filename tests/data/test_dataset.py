from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faultlines.data import load
from faultlines.data.dataset import Dataset, balanced_order

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


@pytest.mark.parametrize("size", [200, 0.25])
def test_hold_out_is_balanced_disjoint_and_complete(size):
    data = load("digits")
    marked = Dataset(
        "m", torch.arange(1297.0).reshape(-1, 1, 1, 1), data.y_train, data.x_test, data.y_test, data.classes
    )
    train, validation = marked.hold_out(size, seed=1)
    assert len(validation.y) == (200 if size == 200 else 324)
    assert validation.y.bincount().max() - validation.y.bincount().min() <= 1
    both = torch.cat([train.x, validation.x]).flatten()
    assert torch.equal(both.sort().values, torch.arange(1297.0))
    for part in (train, validation):
        assert torch.equal(marked.y_train[part.x.flatten().long()], part.y)
    again = marked.hold_out(size, seed=1)
    assert torch.equal(again[1].x, validation.x)
    assert not torch.equal(marked.hold_out(size, seed=2)[1].x, validation.x)


@pytest.mark.parametrize("size", [0, -3, 1297, 1.0, 0.0, 1.5, 1e-9, True, "10"])
def test_hold_out_refuses(size):
    with pytest.raises(ValueError, match="size="):
        load("digits").hold_out(size)


def test_splits_unpack_and_move():
    data = load("digits", n_train=20, n_test=10)
    x, y = data.test
    assert torch.equal(x, data.x_test)
    assert torch.equal(y, data.y_test)
    assert data.to("meta").train.x.device.type == "meta"
    assert data.train.x.device.type == "cpu"
    assert repr(data) == "Dataset('digits': 20 train, 10 test, images 1 x 8 x 8, 10 classes)"


@given(label_lists, st.integers(0, 2**32 - 1))
def test_is_a_permutation_whose_every_prefix_is_balanced(labels, seed):
    order = balanced_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    total = np.bincount(labels)
    for n in range(len(labels) + 1):
        taken = np.bincount(labels[order[:n]], minlength=len(total))
        spare = taken < total  # no class that has samples left lags a fuller one by more than a turn
        if spare.any():
            assert taken.max() - taken[spare].min() <= 1


@given(label_lists, st.integers(0, 1000))
def test_same_seed_same_order(labels, seed):
    assert np.array_equal(balanced_order(labels, seed), balanced_order(labels, seed))


def test_chooses_within_a_class_uniformly():
    labels = np.repeat([0, 1], 10)
    picks = np.array([balanced_order(labels, seed)[:2] for seed in range(4000)])
    counts = np.bincount(picks.ravel(), minlength=20)
    assert abs(counts - 400).max() < 5 * np.sqrt(400)
