from __future__ import annotations

import pytest
import torch

from faultlines.data import Dataset, load


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
