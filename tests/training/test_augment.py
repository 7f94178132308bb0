from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from faultlines.training import CropFlip
from faultlines.training.batches import Batches


def images(n=32):
    return torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.1


def test_every_output_is_a_crop_of_the_padded_image_or_of_its_mirror():
    x = images()
    out = CropFlip(padding=2)(x, torch.Generator().manual_seed(1))
    assert out.shape == x.shape
    found = set()
    for before, after in zip(x, out, strict=True):
        padded = F.pad(before, [2] * 4)
        mirrored = F.pad(before.flip(-1), [2] * 4)
        places = [
            (top, left, flipped)
            for top in range(5)
            for left in range(5)
            for flipped, source in ((False, padded), (True, mirrored))
            if torch.equal(source[:, top : top + 6, left : left + 6], after)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 15  # of the 50 possible: images are drawn for one by one
    assert {flipped for *_, flipped in found} == {True, False}


def test_it_depends_on_its_generator_alone_and_leaves_its_input():
    x = images()
    kept = x.clone()
    a, b, c = (CropFlip()(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(x, kept)
    assert torch.equal(CropFlip(padding=0, flip=False)(x, torch.Generator()), x)


def test_bad_padding_is_named():
    with pytest.raises(ValueError, match="padding=-1"):
        CropFlip(padding=-1)


def test_an_epoch_visits_every_sample_once_in_another_order_each_time():
    x, y = torch.arange(10.0), torch.arange(10)
    batches = Batches(x, y, batch_size=4, seed=0)
    first, second = (torch.cat([labels for _, labels in batches.epoch()]) for _ in range(2))
    assert torch.equal(first.sort().values, y)
    assert torch.equal(second.sort().values, y)
    assert not torch.equal(first, second)
    assert len(batches) == 3
