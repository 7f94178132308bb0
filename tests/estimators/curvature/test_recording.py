"""Curvature is refused where derivatives would silently be zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.estimators.curvature import hessian_top, hessian_trace, input_curvature, input_laplacian


@pytest.mark.parametrize("estimate", [hessian_top, hessian_trace, input_curvature, input_laplacian])
def test_inference_mode_is_refused_and_no_grad_is_not(estimate):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        estimate(model, x, y)
    plain = estimate(model, x, y)
    with torch.no_grad():
        quiet = estimate(model, x, y)
    for name in ("values", "mean", "norm"):
        if hasattr(plain, name):
            assert getattr(plain, name).abs().max() > 0
            torch.testing.assert_close(getattr(plain, name), getattr(quiet, name))


def test_probes_are_a_whole_number():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"probes=2\.5 must be a whole number"):
        hessian_trace(model, torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), probes=2.5)
