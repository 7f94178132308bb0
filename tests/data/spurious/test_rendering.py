from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from faultlines.data import CLASSES, render_groups
from faultlines.data.spurious.rendering import CHUNK

N = 2 * CHUNK + 10  # more than two chunks


def labels(n=N):
    return torch.arange(n) % 4, (torch.arange(n) // 4) % 6


@pytest.fixture(scope="module")
def images():
    return render_groups(*labels(), seed=3, noise=0.0)


def grown(mask, by=1):
    return F.max_pool2d(mask[:, None].float(), 2 * by + 1, 1, by)[:, 0].bool()


def test_form(images):
    assert images.x.shape == (N, 3, 64, 64) and images.x.dtype == torch.float32
    assert bool(torch.isfinite(images.x).all()) and images.x.min() >= 0 and images.x.max() <= 1
    assert images.mask.shape == (N, 64, 64) and images.mask.dtype == torch.bool
    assert torch.equal(images.group, images.y * 6 + images.c)
    share = images.mask.float().mean((1, 2))
    assert share.min() > 0.04 and share.max() < 0.45
    assert repr(images) == f"GroupedImages({N} images 3 x 64 x 64, 24 groups)"


def test_seeded(images):
    again, other = (render_groups(*labels(), seed=s, noise=0.0) for s in (3, 4))
    assert torch.equal(again.x, images.x) and torch.equal(again.mask, images.mask)
    assert (other.x != images.x).flatten(1).any(1).all() and not torch.equal(other.mask, images.mask)
    assert len({image.numpy().tobytes() for image in images.x}) == N  # no two alike


def test_the_mask_is_what_does_not_depend_on_the_background(images):
    y, c = labels()
    elsewhere = render_groups(y, (c + 3) % 6, seed=3, noise=0.0)
    assert torch.equal(elsewhere.mask, images.mask)
    moved = (elsewhere.x - images.x).abs().amax(1)
    inside = ~grown(~images.mask)
    # but for a pixel between two limbs
    assert (moved[inside] < 1e-6).float().mean() > 0.99
    outside = ~grown(images.mask)
    assert (moved[outside] > 0.02).float().mean() > 0.9


@pytest.mark.parametrize("dials", [{"bgs": 0.3}, {"patch": 16}, {"coat": 0.2}, {"noise": 0.1}])
def test_animals_are_the_same_whatever_the_dials(images, dials):
    other = render_groups(*labels(), seed=3, **{"noise": 0.0, **dials})
    assert torch.equal(other.mask, images.mask) and not torch.equal(other.x, images.x)


def test_without_strength_nothing_depends_on_the_background():
    y, c = labels()
    one, other = (render_groups(y, k, seed=3, bgs=0.0) for k in (c, 5 - c))
    assert torch.equal(one.x, other.x)


def test_strength_mixes(images):
    y, c = labels()
    weak, none = (render_groups(y, c, seed=3, noise=0.0, bgs=b).x for b in (0.25, 0.0))
    outside = ~grown(images.mask)[:, None].expand_as(weak)
    mixed = none + 0.25 * (images.x - none)
    # exact but for the brightest scenes, which are cut at 1
    assert ((weak - mixed)[outside].abs() < 1e-5).float().mean() > 0.95


def test_a_patch_shows_the_location_in_one_square_anywhere():
    y, c = labels()
    one, other, none = (
        render_groups(y, k, seed=3, noise=0.0, **dials)
        for k, dials in ((c, {"patch": 16}), ((c + 3) % 6, {"patch": 16}), (c, {"bgs": 0.0}))
    )
    outside = ~grown(one.mask)
    places = []
    for differs in (((one.x != other.x).any(1) & outside), ((one.x != none.x).any(1) & outside)):
        for image in differs[differs.flatten(1).sum(1) > 100]:
            rows, columns = (image.any(k).nonzero()[:, 0] for k in (1, 0))
            assert rows[-1] - rows[0] < 16 and columns[-1] - columns[0] < 16
            places.append((int(rows[0]), int(columns[0])))
    found = torch.tensor(places)
    assert len(found) > 20 and (found.amin(0) < 10).all() and (found.amax(0) > 38).all()
    assert len(found.unique(dim=0)) > 20  # no grid of a few places


def test_a_patch_as_large_as_the_image_fills_it(images):
    assert torch.equal(render_groups(*labels(), seed=3, noise=0.0, patch=64).x, images.x)


def test_the_contrast_of_the_coat():
    y, c = labels()
    spread = []
    for coat in (1.0, 0.5, 0.0):
        found = render_groups(y, c, seed=3, noise=0.0, coat=coat)
        inside = ~grown(~found.mask)
        spread.append(
            torch.stack([x[:, m].std(1).mean() for x, m in zip(found.x, inside, strict=True)]).mean().item()
        )
    assert spread[0] > 1.5 * spread[1] > 1.5 * spread[2]


def test_outlines_differ_by_class(images):
    down, across = images.mask.any(2).sum(1), images.mask.any(1).sum(1)
    shape = (across / down).float()
    by_class = {name: shape[images.y == k].mean().item() for k, name in enumerate(CLASSES)}
    assert (
        by_class["dachshund"] > 1.25 * by_class["bulldog"]
        and by_class["dachshund"] > 1.25 * by_class["corgi"]
    )
    filled = images.mask.float().sum((1, 2)) / (down * across)
    fullness = {name: filled[images.y == k].mean().item() for k, name in enumerate(CLASSES)}
    assert fullness["bulldog"] > 1.2 * fullness["labrador"]


def test_backgrounds_differ_by_location_and_not_by_class(images):
    rows = F.adaptive_avg_pool2d(images.x[..., :4], (8, 1)).flatten(1)  # the left margin, no animal there
    half = torch.arange(N) // 24 % 2 == 0  # each half has all groups

    def rate(labels, kinds):
        centres = torch.stack([rows[half & (labels == k)].mean(0) for k in range(kinds)])
        return (torch.cdist(rows[~half], centres).argmin(1) == labels[~half]).float().mean().item()

    assert rate(images.c, 6) > 0.9
    assert rate(images.y, 4) < 0.45


@pytest.mark.parametrize("size", [32, 65, 96])
def test_sizes(size):
    found = render_groups(torch.arange(4), torch.arange(4), size=size)
    assert found.x.shape == (4, 3, size, size) and found.mask.any(2).any(1).all()


def test_no_image():
    none = torch.zeros(0, dtype=torch.int64)
    assert len(render_groups(none, none)) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": torch.tensor([4])}, "y holds labels from 4 to 4; they must be 0 to 3"),
        ({"c": torch.tensor([-1])}, "c holds labels from -1 to -1; they must be 0 to 5"),
        ({"y": torch.tensor([0.0])}, "y has shape .*float32"),
        ({"c": torch.tensor([0, 1])}, "y has 1 labels, c 2"),
        ({"environment": torch.tensor([0, 1])}, "environment 2"),
        ({"size": 31}, "size=31 must be an integer of at least 32"),
        ({"bgs": 1.1}, r"bgs=1.1 must lie in \[0, 1\]"),
        ({"coat": float("nan")}, "coat=nan must lie"),
        ({"patch": 65}, "patch=65 must be an integer from 4 to size=64"),
        ({"noise": -1.0}, "noise=-1.0 must be finite"),
    ],
)
def test_bad_input_is_named(change, words):
    call = {"y": torch.tensor([0]), "c": torch.tensor([0]), **change}
    with pytest.raises(ValueError, match=words):
        render_groups(call.pop("y"), call.pop("c"), **call)
