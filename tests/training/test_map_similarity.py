from __future__ import annotations

import math

import pytest
import torch

from faultlines.training import map_similarity

KINDS = ("cosine", "centred_cosine", "mae", "ssim")


def maps(n=3, size=9, seed=0):
    draw = torch.rand(n, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (draw - 0.3).relu()


def scaled(m):
    return (m - m.min()) / (m.max() - m.min())


def by_hand(a, b, kind):
    """One pair, the formula written out."""
    if kind == "centred_cosine":
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
    if kind == "cosine":
        return (a.flatten() @ b.flatten() / a.norm() / b.norm()).item()
    a, b = scaled(a), scaled(b)
    if kind == "mae":
        return 1 - (a - b).abs().mean().item()
    values = []
    for i in range(a.shape[0] - 6):
        for j in range(a.shape[1] - 6):
            u, v = a[i : i + 7, j : j + 7].flatten(), b[i : i + 7, j : j + 7].flatten()
            cov = torch.cov(torch.stack([u, v]), correction=0)
            top = (2 * u.mean() * v.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
            values.append(top / ((u.mean() ** 2 + v.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)))
    return torch.stack(values).mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind):
    a, b = maps(), maps(seed=1)
    expected = [by_hand(u, v, kind) for u, v in zip(a, b, strict=True)]
    assert map_similarity(a, b, kind).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_maps_are_alike_and_order_does_not_matter(kind):
    a, b = maps(), maps(seed=1)
    assert map_similarity(a, 3 * a, kind).tolist() == pytest.approx([1] * 3)  # the scale does not count
    assert torch.allclose(map_similarity(a, b, kind), map_similarity(b, a, kind), atol=1e-14)
    assert (map_similarity(a, b, kind) < 0.99).all()
    # away from ties for the least entry, of which a ReLU's map has many
    smooth = torch.rand(3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda m: map_similarity(m, b, kind), smooth.requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["map", "empty", "constant"])
def test_empty_maps_are_safe(kind, other):
    a = torch.zeros(1, 5, 5, dtype=torch.float64, requires_grad=True)
    b = {"map": maps(1, 5), "empty": torch.zeros(1, 5, 5).double(), "constant": torch.ones(1, 5, 5).double()}[
        other
    ]
    found = map_similarity(a, b, kind)
    found.sum().backward()
    assert torch.isfinite(found).all() and (a.grad == 0).all()
    if "cosine" in kind:
        assert found.item() == 0


def test_gradient_stays_bounded_next_to_an_empty_map():
    eps = 1e-4
    for size in (1e-12, 1e-6, 1e-4, 1e-3):
        a = torch.full((1, 5, 5), size / 5, dtype=torch.float64)  # norm `size`
        a[0, 0, 0] += size / 10
        a.requires_grad_()
        map_similarity(a, maps(1, 5), eps=eps).sum().backward()
        assert a.grad.norm() <= 1 / eps


def test_cosine_with_a_constant_map_is_sparsity():
    a = maps()
    flat = a.flatten(1)
    hoyer = flat.sum(1) / (math.sqrt(81) * flat.norm(dim=1))
    assert torch.allclose(map_similarity(a, torch.ones_like(a)), hoyer)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="similarity='l3' is not one of"):
        map_similarity(maps(), maps(), "l3")
    with pytest.raises(ValueError, match=r"shapes \(3, 9, 9\) and \(2, 9, 9\)"):
        map_similarity(maps(), maps(2))
