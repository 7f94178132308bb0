"""Extreme eigenvalues of batches of symmetric matrices."""

from __future__ import annotations

import pytest
import torch

from faultlines.estimators.curvature.krylov import lanczos
from faultlines.estimators.curvature.parameters import hutchinson


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(batch, n, seed=0):
    m = torch.randn(batch, n, n, dtype=torch.float64, generator=rng(seed))
    return m + m.mT


def of(h):
    return lambda v: torch.einsum("bij,bj->bi", h, v)


def start(batch, n, seed=1):
    return torch.randn(batch, n, dtype=torch.float64, generator=rng(seed))


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("end", ["top", "magnitude"])
def test_against_the_dense_eigenvalues(n, end):
    h = symmetric(6, n)
    expected = torch.linalg.eigvalsh(h)
    if end == "magnitude":
        expected = expected.gather(1, expected.abs().argsort(dim=1))
    k = min(n, 3)
    found = lanczos(of(h), start(6, n), k=k, steps=200, tol=1e-12, end=end)
    torch.testing.assert_close(found.values, expected.flip(1)[:, :k], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.lowest, torch.linalg.eigvalsh(h)[:, 0], rtol=1e-6, atol=1e-6)
    image = torch.einsum("bij,bkj->bki", h, found.vectors)
    torch.testing.assert_close(image, found.values[..., None] * found.vectors, rtol=0, atol=1e-6)


def test_a_loose_tolerance_is_kept_and_the_top_is_never_too_large():
    """On the spectrum of a Hessian, a few outliers over a bulk, always; where the top crowds together, as a rule."""
    outliers = torch.cat([torch.tensor([3.0, 2.9, 1.5]), torch.linspace(-0.5, 0.5, 297)]).double()
    crowded = []
    for seed in range(20):
        found = lanczos(lambda v: v * outliers, start(4, 300, seed), tol=1e-2)
        assert ((found.values <= 3 * (1 + 1e-12)) & (found.values >= 2.97)).all()
        assert found.steps < 40
        h = symmetric(4, 120, seed)
        exact = torch.linalg.eigvalsh(h)[:, -1]
        found = lanczos(of(h), start(4, 120, seed + 100), tol=1e-2, steps=120)
        assert (found.values[:, 0] <= exact * (1 + 1e-12)).all()
        crowded.append(1 - found.values[:, 0] / exact)
    assert (torch.cat(crowded) <= 1e-2).double().mean() >= 0.95


def test_a_small_positive_end_beside_a_large_negative_one():
    """Power iteration would return -100; the estimate must not, and a negative definite matrix has a negative top."""
    d = torch.linspace(-100, 1, 50, dtype=torch.float64)
    for shift, expected in ((0.0, 1.0), (5.0, -4.0)):
        found = lanczos(lambda v, shift=shift: v * (d - shift), start(3, 50), tol=1e-8, steps=50)
        torch.testing.assert_close(found.values[:, 0], torch.full((3,), expected, dtype=torch.float64))
        torch.testing.assert_close(found.lowest, torch.full((3,), -100 - shift, dtype=torch.float64))


def test_low_rank_multiple_and_zero_matrices():
    u = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=rng()))[0]
    values = torch.zeros(3, 20, dtype=torch.float64)
    values[0, :2] = 3.0  # a double eigenvalue, which a single Krylov space does not show
    values[1, :] = -2.0  # all equal and negative: the space ends after one step
    h = torch.einsum("ik,bk,jk->bij", u, values, u)
    found = lanczos(of(h), start(3, 20), k=3, tol=0, steps=20)
    expected = torch.tensor([[3.0, 3, 0], [-2, -2, -2], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, atol=1e-12, rtol=0)
    assert (lanczos(of(h), start(3, 20)).values[:, 0] - expected[:, 0]).abs().max() < 1e-12


def test_the_estimated_error_covers_the_error():
    covered = []
    for seed in range(20):
        h = symmetric(4, 60, seed)
        exact = torch.linalg.eigvalsh(h)[:, -1]
        found = lanczos(of(h), start(4, 60, seed + 50), steps=20, tol=0)
        covered.append(exact - found.values[:, 0] <= found.errors[:, 0])
    assert torch.cat(covered).double().mean() >= 0.9


def test_a_row_that_is_not_finite_is_nan_and_spares_the_others():
    factor = torch.tensor([[1.0], [torch.nan], [torch.inf]], dtype=torch.float64)
    d = torch.linspace(-1, 2, 15, dtype=torch.float64)
    found = lanczos(lambda v: factor * d * v, start(3, 15), steps=15, tol=0)
    torch.testing.assert_close(found.values[0, 0].item(), 2.0)
    assert (
        found.values[1:].isnan().all() and found.errors[1:].isnan().all() and found.lowest[1:].isnan().all()
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e25, 1e33])
def test_the_scale_changes_nothing(scale):
    d = torch.linspace(-1, 2, 40)
    found = lanczos(lambda v: scale * d * v, start(2, 40).float(), tol=1e-3)
    torch.testing.assert_close(found.values / scale, torch.full((2, 1), 2.0), rtol=2e-3, atol=0)


def test_hutchinson_over_all_signs_is_the_trace_and_reports_its_error():
    h = symmetric(2, 10)
    found = hutchinson(of(h), start(2, 10), probes=3000, generator=rng(3))
    trace = h.diagonal(dim1=1, dim2=2).sum(1)
    off = h - torch.diag_embed(h.diagonal(dim1=1, dim2=2))
    exact = (2 * off.square().sum((1, 2)) / 3000).sqrt()
    torch.testing.assert_close(found.standard_error, exact, rtol=0.1, atol=0)
    assert ((found.mean - trace).abs() < 4 * exact).all()
    assert hutchinson(of(h), start(2, 10), probes=1).standard_error.isnan().all()


def test_bad_arguments_are_named():
    for options, message in (
        ({"k": 0}, "k=0"),
        ({"k": 6}, "k=6 must lie between 1 and the number of coordinates, 5"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5 must be an integer, at least 1"),
        ({"k": 1.5}, "k=1.5 must lie between 1 and"),
        ({"tol": float("nan")}, "tol=nan"),
        ({"end": "bottom"}, "end='bottom' is not one of"),
    ):
        with pytest.raises(ValueError, match=message):
            lanczos(lambda v: v, torch.ones(1, 5), **options)
