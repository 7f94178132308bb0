from __future__ import annotations

import pytest
import torch

from faultlines.data import distribution_suite
from faultlines.estimators import (
    softmax_jacobian_frobenius,
    softmax_jacobian_gershgorin,
    softmax_jacobian_norm,
    softmax_jacobian_trace,
)

SUITE = distribution_suite(600, (2, 5, 17), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("p", SUITE, ids=lambda p: f"n={p.shape[-1]}")
def test_rivals_equal_the_dense_matrix(p: torch.Tensor) -> None:
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(
        softmax_jacobian_frobenius(p), jacobian.norm(dim=(1, 2)), rtol=1e-6, atol=1e-12
    )
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(softmax_jacobian_trace(p), trace, rtol=1e-6, atol=1e-12)
    discs = jacobian.diagonal(dim1=1, dim2=2) + (
        jacobian.abs().sum(-1) - jacobian.diagonal(dim1=1, dim2=2).abs()
    )
    torch.testing.assert_close(softmax_jacobian_gershgorin(p), discs.amax(-1), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("p", SUITE, ids=lambda p: f"n={p.shape[-1]}")
def test_rivals_lie_above_the_norm_even_for_nearly_one_hot_rows(p: torch.Tensor) -> None:
    norm = softmax_jacobian_norm(p) * (1 - 1e-9)
    for rival in (softmax_jacobian_frobenius, softmax_jacobian_gershgorin, softmax_jacobian_trace):
        assert (rival(p) >= norm).all(), rival.__name__


RIVALS = (softmax_jacobian_frobenius, softmax_jacobian_gershgorin, softmax_jacobian_trace)


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("eps", "dtype"), [(1e-30, torch.float32), (1e-300, torch.float64)])
def test_rivals_do_not_underflow(rival, eps: float, dtype: torch.dtype) -> None:
    p = torch.tensor([1.0, eps, eps], dtype=dtype)
    assert rival(p) >= softmax_jacobian_norm(p) * (1 - 1e-6)


@pytest.mark.parametrize("rival", RIVALS)
def test_a_single_entry_has_no_slope_and_none_is_refused(rival) -> None:
    assert torch.equal(rival(torch.ones(2, 1)), torch.zeros(2))
    with pytest.raises(ValueError, match="p has shape"):
        rival(torch.ones(2, 0))
