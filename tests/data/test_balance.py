from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from faultlines.data.dataset import balanced_order

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


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
