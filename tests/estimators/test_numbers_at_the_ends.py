"""Parallel rows, kernels of low rank, ties and values that are not finite."""

from __future__ import annotations

import math

import pytest
import torch

from faultlines.estimators import (
    flip_rate,
    loo_influence,
    most_influential,
    rank_correlation,
    relu_ntk,
    top_overlap,
)
from faultlines.estimators.similarity import kendall_tau, spearman


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("train", ["first", "both"])
@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-4, 1e-2, 1.0, math.pi - 1e-7, math.pi])
def test_the_kernel_of_two_rows_at_an_angle(angle, dtype, differentiated, train):
    if dtype == torch.float32 and 0 < angle < 1e-4:
        pytest.skip("float32 does not hold such rows")
    a, b = (torch.tensor(row, dtype=dtype) for row in ([[3.0, 0.0]], [[math.cos(angle), math.sin(angle)]]))
    found = relu_ntk(a.requires_grad_(differentiated), b, train=train).item()
    inner = 3 * math.cos(angle)
    expected = inner * (math.pi - angle) / (2 * math.pi)
    if train == "both":
        expected += 3 * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    assert found == pytest.approx(expected, abs=256 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_duplicate_rows_have_duplicate_kernels(dtype):
    x = draw(30, 12, dtype=dtype)
    x = torch.cat([x, x[:5]])
    kernel = relu_ntk(x)
    torch.testing.assert_close(
        kernel[:5], kernel[30:], rtol=4 * torch.finfo(dtype).eps, atol=1e-6 * kernel.max()
    )
    gap = kernel.diagonal()[:5] - kernel[torch.arange(5), torch.arange(30, 35)]
    assert gap.abs().max() <= 8 * torch.finfo(dtype).eps * kernel.max()
    slope = torch.autograd.grad(relu_ntk(x.requires_grad_()).sum(), x)[0]
    assert slope.isfinite().all()


@pytest.mark.parametrize("ridge", [1e-3, 1e-8, 1e-11, 1e-12])
def test_leave_one_out_keeps_its_digits_on_a_kernel_of_low_rank(ridge):
    features, test, y = draw(40, 5), draw(7, 5, seed=1), draw(40, seed=2)
    found = loo_influence(features @ features.T, test @ features.T, y, ridge)

    def weights(keep):  # ridge regression in the features, well conditioned at any ridge
        f = features[keep]
        return torch.linalg.solve(f.T @ f + ridge * torch.eye(5, dtype=f.dtype), f.T @ y[keep])

    full = test @ weights(torch.arange(40))
    for i in range(40):
        without = test @ weights(torch.arange(40) != i)
        torch.testing.assert_close(found[i], full - without, rtol=1e-7, atol=1e-9)


def test_ties_at_the_edge_of_the_top_share_it():
    before = torch.tensor([[3.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    after = before.clone()
    order = torch.tensor([2, 0, 3, 1])
    for measure in (top_overlap, flip_rate):
        values = [measure(before[o], after[o], share=0.5) for o in (torch.arange(4), order)]
        torch.testing.assert_close(*values)
    assert top_overlap(before, after, share=0.5).item() == pytest.approx(1)
    after[1] = -1.0  # a third of the one place left flips
    assert flip_rate(before, after, share=0.5).item() == pytest.approx(1 / 6)
    assert most_influential(before, 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "measure", [flip_rate, top_overlap, rank_correlation, lambda a, b: flip_rate(a, b, mode="aggregated")]
)
def test_what_is_not_finite_makes_its_test_sample_undefined(measure, bad):
    before, after = draw(20, 4), draw(20, 4, seed=1)
    clean = measure(before, after)
    after[3, 1] = bad
    found = measure(before, after)
    if found.ndim == 0:
        assert found.isnan()
        return
    assert found.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(found[[0, 2, 3]], clean[[0, 2, 3]])


def test_no_order_is_made_of_influences_that_are_not_finite():
    influence = draw(5, 2)
    influence[1, 1] = torch.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        most_influential(influence)


def test_rank_correlations_have_one_convention_for_a_constant():
    a, b = torch.ones(10, 1, dtype=torch.float64), draw(10, 1)
    assert rank_correlation(a, b).isnan().all() and rank_correlation(b, a).isnan().all()
    assert spearman(a.T, b.T).isnan().all() and kendall_tau(a.T, b.T).isnan().all()
