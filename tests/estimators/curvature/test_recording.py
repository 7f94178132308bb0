"""Curvature is the same in every autograd mode of the caller."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.estimators.curvature import hessian_top, hessian_trace, input_curvature


@pytest.mark.parametrize("estimate", [hessian_top, hessian_trace, input_curvature])
def test_inference_mode_and_no_grad_do_not_matter(estimate):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 1])
    plain = estimate(model, x, y)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            quiet = estimate(model, x.clone(), y)  # in inference mode a tensor that autograd does not take
        for name in ("values", "mean", "norm"):
            if hasattr(plain, name):
                assert getattr(plain, name).abs().max() > 0
                torch.testing.assert_close(getattr(plain, name), getattr(quiet, name))


def test_probes_are_a_whole_number():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"probes=2\.5 must be a whole number"):
        hessian_trace(model, torch.rand(4, 3), torch.tensor([0, 1, 0, 1]), probes=2.5)
