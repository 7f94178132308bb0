"""The cue says its code, and nothing but the corner changes."""

from __future__ import annotations

import pytest
import torch

from faultlines.data.shortcut_patch import class_cue, other_class, partly_cued


def test_every_code_is_another_square_and_the_rest_stays() -> None:
    images = torch.rand(16, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    marked = class_cue(images, torch.arange(16), side=4)
    assert torch.equal(images, before)
    assert torch.equal(marked[:, :, 4:], images[:, :, 4:])
    assert torch.equal(marked[:, :, :4, 4:], images[:, :, :4, 4:])
    assert len(marked[:, :, :4, :4].flatten(1).unique(dim=0)) == 16
    assert not marked[0, :, :4, :4].any()
    assert marked[15, :, :4, :4].all()
    quarters = marked[:, 0, :4:2, :4:2].flatten(1)  # one pixel of each
    assert torch.equal(quarters @ torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.arange(16.0))
    assert torch.equal(marked[:, :, 1, :4], marked[:, :, 0, :4])


def test_another_class_is_drawn_uniformly_from_the_others() -> None:
    y = torch.arange(5).repeat(4000)
    drawn = other_class(y, 5, torch.Generator().manual_seed(0))
    counts = torch.zeros(5, 5).index_put_((y, drawn), torch.tensor(1.0), accumulate=True)
    assert not counts.diagonal().any()
    assert (counts[~torch.eye(5, dtype=torch.bool)] - 1000).abs().max() < 120


@pytest.mark.parametrize(
    ("side", "code", "word"), [(3, 1, "side=3"), (10, 1, "side=10"), (2, 16, "code"), (2, -1, "code")]
)
def test_what_does_not_fit_is_named(side: int, code: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        class_cue(torch.zeros(2, 1, 8, 8), torch.full((2,), code), side=side)


def test_one_class_has_no_other() -> None:
    with pytest.raises(ValueError, match="classes=1"):
        other_class(torch.zeros(3, dtype=torch.long), 1, torch.Generator())


def test_a_share_of_the_images_is_cued_and_a_share_of_the_cues_is_honest() -> None:
    n, y = 4000, torch.arange(4000) % 5
    x = torch.full((n, 1, 4, 4), 0.5)
    found = partly_cued(x, y, 5, share=0.3, honest=0.9, side=2, seed=1)
    carries = found[:, 0, 0, 0] != 0.5
    true = (found == class_cue(x, y + 1, side=2)).flatten(1).all(dim=1)
    assert carries.double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert true[carries].double().mean().item() == pytest.approx(0.9, abs=0.03)
    assert torch.equal(found[~carries], x[~carries])
    assert torch.equal(found, partly_cued(x, y, 5, share=0.3, honest=0.9, side=2, seed=1))
    with pytest.raises(ValueError, match="honest=2"):
        partly_cued(x, y, 5, share=0.3, honest=2, side=2, seed=1)
