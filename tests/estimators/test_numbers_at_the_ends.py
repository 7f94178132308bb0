"""Parallel rows, kernels of low rank, ties and values that are not finite."""

from __future__ import annotations

import math

import pytest
import torch

from faultlines.attacks import Cosine, MassCentre, Spearman, TopK
from faultlines.estimators import (
    finite_relu_ntk,
    flip_rate,
    foreground_energy,
    hoyer_sparsity,
    loo_influence,
    map_coverage,
    margin_radius,
    most_influential,
    normalize_map,
    rank_correlation,
    relu_ntk,
    top_overlap,
)
from faultlines.estimators.similarity import kendall_tau, spearman
from faultlines.training import map_similarity
from faultlines.training.objectives.domain_generalisation import coral, irm_penalty

LOW = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
INSIDE = torch.arange(36).view(1, 6, 6).expand(3, 6, 6) % 3 == 0
LABELS = torch.arange(8) % 3
"""Statistics of maps, features, logits and rows, with the shapes that they take."""
STATISTICS = {
    **{
        f"similarity {kind}": (lambda a, b, kind=kind: map_similarity(a, b, kind), [(3, 6, 6), (3, 6, 6)])
        for kind in ("cosine", "centred_cosine", "mae", "ssim")
    },
    **{
        f"normalised {kind}": (lambda a, kind=kind: normalize_map(a, kind), [(3, 6, 6)])
        for kind in ("none", "minmax", "l1", "l2")
    },
    "hoyer": (lambda a: hoyer_sparsity(a.abs()), [(3, 6, 6)]),
    "coverage": (lambda a: map_coverage(a.abs()), [(3, 6, 6)]),
    "energy": (lambda a: foreground_energy(a.abs(), INSIDE), [(3, 6, 6)]),
    "coral": (coral, [(8, 5), (9, 5)]),
    "irm": (lambda z: irm_penalty(z, LABELS), [(8, 3)]),
    **{
        f"criterion {criterion.name}": (
            lambda a, b, criterion=criterion: criterion.score(b, criterion.reference(a)), [(3, 6, 6), (3, 6, 6)],
        )
        for criterion in (Cosine(), Spearman(), MassCentre(), TopK(5))
    },
    "relu ntk": (relu_ntk, [(6, 5)]),
    "relu ntk of both layers": (lambda a: relu_ntk(a, train="both"), [(6, 5)]),
    "finite ntk": (lambda a: finite_relu_ntk(a, weight=draw(64, 5, seed=3).to(a.dtype)), [(6, 5)]),
    "margin radius": (lambda z: margin_radius(z, 2.0), [(5, 4)]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1, 100, 1e4])
@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_that_of_float64_in_every_precision_and_size(name, size, offset, dtype):
    statistic, shapes = STATISTICS[name]
    given = [
        (size * (draw(*shape, seed=i) + offset)).to(dtype) for i, shape in enumerate(shapes)
    ]  # offsets common to all
    if not all(value.isfinite().all() for value in given):
        pytest.skip("the numbers themselves are too large for the precision")
    expected, found = statistic(*(value.double() for value in given)), statistic(*given)
    # what the result's own precision cannot hold is infinite, and never NaN or a finite number
    expected = expected.to(found.dtype).double()
    torch.testing.assert_close(
        found.double(), expected, rtol=LOW[dtype], atol=LOW[dtype] * float(expected[expected.isfinite()].abs().max())
        if expected.isfinite().any() else 0,
    )  # fmt: skip


@pytest.mark.parametrize("pixels", [300, 3000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranks_of_many_pixels_in_half_precision(pixels, dtype):
    a, b = (draw(2, 1, pixels, seed=seed).to(dtype) for seed in (0, 1))
    criterion = Spearman()
    found = criterion.score(b, criterion.reference(a)).double()
    torch.testing.assert_close(
        found, spearman(a.double().flatten(1), b.double().flatten(1)), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("criterion", [Cosine(), Spearman(), MassCentre(), TopK(5)], ids=lambda c: c.name)
def test_a_map_that_holds_nan_has_no_likeness(criterion):
    clean, moved = draw(2, 6, 6), draw(2, 6, 6, seed=1)
    moved[1, 2, 3] = torch.nan
    assert criterion.score(moved, criterion.reference(clean)).isnan().tolist() == [False, True]


@pytest.mark.parametrize("kind", ["cosine", "centred_cosine", "mae", "ssim"])
def test_a_map_that_holds_nan_is_like_none(kind):
    a, b = draw(2, 8, 8).abs(), draw(2, 8, 8, seed=1).abs()
    b[1, 2, 3] = torch.nan
    assert map_similarity(a, b, kind).isnan().tolist() == [False, True]


@pytest.mark.parametrize("kind", ["minmax", "l1", "l2"])
def test_a_map_that_holds_nan_is_not_empty(kind):
    maps = draw(3, 8, 8)
    maps[1, 2, 3], maps[2] = torch.nan, 0
    found = normalize_map(maps, kind)
    assert found.isnan().flatten(1).any(dim=1).tolist() == [False, True, False]
    assert not found[2].any()


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
