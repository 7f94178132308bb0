from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from faultlines.data import load, make_task


def test_classes_are_balanced_relabelled_and_from_their_own_split():
    data = load("digits")
    task = make_task(data, (8, 3), n_train=40, n_test=20, seed=1)
    assert task.x.dtype == torch.float64 and task.y.bincount().tolist() == [20, 20]
    own = {tuple(row) for row in data.x_train[data.y_train == 8].flatten(1).double().tolist()}
    assert all(tuple(row) in own for row in task.x[task.y == 0].flatten(1).tolist())
    again = make_task(data, (8, 3), n_train=40, n_test=20, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(task, again, strict=True))
    assert make_task(data, None, n_train=50, n_test=20, seed=0).y.bincount().tolist() == [5] * 10


def test_duplicates_and_blank_images_are_left_out():
    data = load("digits")
    x = data.x_train.clone()
    threes = (data.y_train == 3).nonzero().flatten()
    x[threes[:30]] = x[threes[0]].clone()
    x[threes[30:40]] = 0
    task = make_task(replace(data, x_train=x), (3, 8), n_train=60, n_test=10, seed=0)
    rows = task.x.flatten(1)
    assert len(rows.unique(dim=0)) == 60 and rows.any(dim=1).all()


@pytest.mark.parametrize(
    ("classes", "sizes", "message"),
    [
        ((3,), (10, 10), "at least two different ones"),
        ((3, 3), (10, 10), "at least two different ones"),
        ((3, 10), (10, 10), "of 0 to 9"),
        ((3, 8), (1000, 10), "n_train=1000: of classes"),
    ],
)
def test_bad_input(classes, sizes, message):
    with pytest.raises(ValueError, match=message):
        make_task(load("digits"), classes, n_train=sizes[0], n_test=sizes[1], seed=0)
