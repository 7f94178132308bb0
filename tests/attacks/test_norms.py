from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faultlines.attacks.norms import L2, Ball, Linf, as_norm

norms = st.sampled_from([Linf(), L2()])
seeds = st.integers(0, 2**31)
radii = st.floats(1e-3, 2.0)


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(norms, seeds, radii)
def test_projection(norm, seed, eps):
    x = draw(seed, 3, 2, 4).sigmoid()
    ball = Ball(x, eps, norm)
    z = x + draw(seed + 1, 3, 2, 4)
    p = ball.project(z)
    assert (norm.size(p - x) <= eps * (1 + 1e-12)).all()
    assert p.min() >= 0
    assert p.max() <= 1
    assert torch.allclose(ball.project(p), p, atol=1e-12)
    inside = x + norm.shrink(draw(seed + 2, 3, 2, 4) * 1e-3, eps)
    inside = inside.clamp(0, 1)
    assert torch.allclose(ball.project(inside), inside, atol=1e-12)


@given(norms, seeds, radii)
def test_shrink_is_the_nearest_point(norm, seed, eps):
    """The variational inequality of a Euclidean projection, against random members of the ball."""
    delta = draw(seed, 3, 5)
    p = norm.shrink(delta, eps)
    for other in range(5):
        member = norm.shrink(draw(seed + other + 1, 3, 5) * 3, eps)
        assert (((delta - p) * (member - p)).sum(dim=1) <= 1e-9).all()


@given(norms, seeds)
def test_steepest_beats_every_unit_direction(norm, seed):
    gradient = draw(seed, 4, 6)
    best = norm.steepest(gradient)
    assert torch.allclose(norm.size(best), torch.ones(4, dtype=torch.float64))
    other = draw(seed + 1, 4, 6)
    other = other / norm.size(other)[:, None]
    assert ((best * gradient).sum(dim=1) >= (other * gradient).sum(dim=1) - 1e-12).all()


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_vanishing_gradients(norm):
    gradient = torch.tensor([[0.0, 0.0], [3e-38, 4e-38], [3e30, 4e30]])
    direction = norm.steepest(gradient)
    assert torch.equal(direction[0], torch.zeros(2))
    expected = torch.tensor([1.0, 1.0] if norm.name == "linf" else [0.6, 0.8])
    assert torch.allclose(direction[1:], expected.expand(2, 2), atol=1e-4)


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_random_start_is_uniform_in_the_ball(norm):
    delta = norm.sample(torch.zeros(40000, 3), 0.5, torch.Generator().manual_seed(0))
    share = norm.size(delta) / 0.5
    assert share.max() <= 1 + 1e-6
    # volume grows with the cube of the radius
    for radius in (0.3, 0.6, 0.9):
        assert abs((share <= radius).float().mean() - radius**3) < 0.01
    assert delta.mean(dim=0).abs().max() < 0.01


def test_by_name():
    assert as_norm("l2") == L2()
    with pytest.raises(ValueError, match="norm='l7'"):
        as_norm("l7")
