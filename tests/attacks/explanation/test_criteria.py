"""Criteria of maps against scipy, by hand, and with ties, constant maps and zeros."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import center_of_mass
from scipy.stats import rankdata, spearmanr

from faultlines.attacks.explanation import Cosine, MassCentre, Spearman, TopK
from faultlines.attacks.explanation.criteria import ranks

CRITERIA = [TopK(5), MassCentre(), Cosine(), Spearman()]
each_criterion = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: c.name)


def maps(seed=0, n=4, levels=0):
    found = torch.rand(n, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (levels * found).round() if levels else found


def score(criterion, clean, other):
    return criterion.score(other, criterion.reference(clean))


@pytest.mark.parametrize("levels", [0, 4])
def test_spearman_against_scipy(levels):
    clean, other = maps(0, levels=levels), maps(1, levels=levels)
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(clean, other, strict=True)]
    assert torch.allclose(score(Spearman(), clean, other), torch.tensor(expected), atol=1e-12)
    expected = torch.stack([torch.from_numpy(rankdata(a)) for a in other.flatten(1)]) - 1
    assert torch.equal(ranks(other.flatten(1)), expected)


def test_centre_against_scipy():
    clean = maps()
    centre = MassCentre().centre(clean) * 50**0.5 + 2.5
    assert torch.allclose(centre, torch.tensor([center_of_mass(m.numpy()) for m in clean]))


def test_top_k_by_counting():
    clean, other = maps(0), maps(1)
    for k in (1, 5, 36):
        tops = [
            [set(row.argsort(descending=True)[:k].tolist()) for row in m.flatten(1)] for m in (clean, other)
        ]
        expected = torch.tensor([len(a & b) / k for a, b in zip(*tops, strict=True)])
        assert torch.allclose(score(TopK(k), clean, other).float(), expected)


@each_criterion
@pytest.mark.parametrize("levels", [0, 3])
def test_clean_maps_score_one_without_rounding(criterion, levels):
    for clean in (maps(levels=levels), maps(levels=levels).float(), 1e-30 * maps(levels=levels).float()):
        assert (score(criterion, clean, clean) == 1).all()


@each_criterion
def test_scores_do_not_depend_on_the_scale_of_a_map(criterion):
    clean, other = maps(0), maps(1)
    assert torch.allclose(score(criterion, clean, 7 * other), score(criterion, clean, other))


@each_criterion
def test_zero_and_constant_maps_are_defined(criterion):
    clean, flat, zero = maps(), torch.full((4, 6, 6), 0.3, dtype=torch.float64), torch.zeros(4, 6, 6).double()
    for a in (clean, flat, zero):
        for b in (clean, flat, zero):
            b = b.clone().requires_grad_()
            found, reference = score(criterion, a, b), criterion.reference(a)
            assert found.isfinite().all()
            (gradient,) = torch.autograd.grad(criterion.loss(b, reference).sum(), b)
            assert gradient.isfinite().all()
        assert (score(criterion, a, a) == 1).all()
    if criterion.name in ("cosine", "spearman"):
        assert (score(criterion, clean, zero) == 0).all()
        assert (score(criterion, zero, clean) == 0).all()
    if criterion.name == "spearman":
        assert (score(criterion, clean, flat) == 0).all()


@each_criterion
def test_rising_loss_lowers_the_score(criterion):
    """The loss that is ascended stands for the score that counts."""
    clean = maps(0, n=1)
    reference = criterion.reference(clean)
    z = maps(2, n=1)
    first = criterion.score(z, reference)
    for _ in range(20):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(criterion.loss(z, reference).sum(), z)
        z = (z.detach() + 0.01 * gradient.sign()).clamp(0, 1)
    assert criterion.score(z, reference) < first
