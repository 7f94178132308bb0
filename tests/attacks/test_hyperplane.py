from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from faultlines.attacks.fab import to_hyperplane
from faultlines.attacks.norms import L2, Linf


def problem(seed, n=5):
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand(1, n, dtype=torch.float64, generator=generator)
    point[:, : seed % 3] = 0.0  # at the border of the box
    normal = torch.randn(1, n, dtype=torch.float64, generator=generator)
    normal[:, seed % 5] *= seed % 2  # some without weight
    value = 1.5 * torch.randn(1, dtype=torch.float64, generator=generator)
    return point, normal, value


def reachable(point, normal, value):
    low = value + torch.minimum(-normal * point, normal * (1 - point)).sum()
    high = value + torch.maximum(-normal * point, normal * (1 - point)).sum()
    return low.item() <= 0 <= high.item()


@given(st.integers(0, 10**6), st.sampled_from([Linf(), L2()]))
def test_lies_on_the_plane_and_in_the_box(seed, norm):
    point, normal, value = problem(seed)
    move = to_hyperplane(point, normal, value, norm)
    assert (point + move).min() >= -1e-12
    assert (point + move).max() <= 1 + 1e-12
    left = (value + (normal * move).sum()).item()
    if reachable(point, normal, value):
        assert abs(left) < 1e-9
    else:  # the extreme of the box
        best = torch.where(normal * value > 0, -point, 1 - point) * (normal != 0)
        assert torch.allclose(move, best)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_linf_is_the_linear_program(seed):
    point, normal, value = problem(seed)
    if not reachable(point, normal, value):
        return
    n = point.shape[1]
    p, w = point[0].numpy(), normal[0].numpy()
    identity, ones = np.eye(n), np.ones((n, 1))
    solved = linprog(
        np.r_[np.zeros(n), 1],
        A_ub=np.block([[identity, -ones], [-identity, -ones]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[w, 0][None],
        b_eq=[-value.item()],
        bounds=[*zip(-p, 1 - p, strict=True), (0, None)],
    )
    assert Linf().size(to_hyperplane(point, normal, value, Linf())).item() == pytest.approx(
        solved.fun, abs=1e-7
    )


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_l2_is_the_quadratic_program(seed):
    point, normal, value = problem(seed)
    if not reachable(point, normal, value):
        return
    p, w = point[0].numpy(), normal[0].numpy()
    move = to_hyperplane(point, normal, value, L2())[0].numpy()
    solved = minimize(
        lambda d: d @ d,
        move * 0.9,
        jac=lambda d: 2 * d,
        bounds=[*zip(-p, 1 - p, strict=True)],
        constraints={"type": "eq", "fun": lambda d: value.item() + w @ d, "jac": lambda d: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    if solved.success:
        assert move @ move <= solved.fun + 1e-7


def test_no_gradient_no_move():
    for norm in (Linf(), L2()):
        move = to_hyperplane(torch.rand(2, 4), torch.zeros(2, 4), torch.tensor([1.0, 0.0]), norm)
        assert torch.equal(move, torch.zeros(2, 4))
