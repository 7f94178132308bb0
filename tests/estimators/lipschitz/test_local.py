import pytest
import torch

from faultlines.estimators.lipschitz import jacobian_norm, local_lipschitz
from faultlines.models import ViT


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_linear_map_bounds_and_nearly_attains(norm):
    w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.zeros(3, 6, dtype=torch.float64)
    found = local_lipschitz(lambda x: x @ w, x, 0.7, norm=norm, ascent_steps=60)
    if norm == "l2":
        exact = torch.linalg.matrix_norm(w, ord=2)
    else:  # a convex function is largest at a corner of the cube
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6)
        exact = (corners @ w).norm(dim=1).max()
    assert (found.random <= found.ascent).all()
    assert (found.ascent <= exact * (1 + 1e-12)).all()
    # at a corner that its own gradient points to, ascent in the cube ends: a local maximum
    assert (found.ascent >= (0.98 if norm == "l2" else 0.85) * exact).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_values_are_ratios_of_points_in_the_ball(norm):
    torch.manual_seed(0)
    model = ViT(
        image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=2, heads=2, qk_gain=3
    ).double()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = local_lipschitz(model, x, 0.5, norm=norm, generator=torch.Generator().manual_seed(3))
    xi = found.perturbation
    length = xi.flatten(1).norm(dim=1) if norm == "l2" else xi.flatten(1).abs().amax(dim=1)
    assert (length <= 0.5 * (1 + 1e-12)).all()
    ratio = (model(x + xi) - model(x)).norm(dim=1) / length
    torch.testing.assert_close(ratio.detach(), found.ascent)
    assert (found.ascent > found.random).all()
    again = local_lipschitz(model, x, 0.5, norm=norm, generator=torch.Generator().manual_seed(3))
    assert torch.equal(found.ascent, again.ascent)


def test_a_small_ball_recovers_the_jacobian_norm_from_below():
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).double()
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    limit = jacobian_norm(model, x, tol=1e-9)
    found = local_lipschitz(model, x, 1e-5, ascent_steps=100).ascent
    assert (found <= limit * (1 + 1e-4)).all()
    assert (found >= 0.9 * limit).all()


def test_no_gradient_reaches_the_caller():
    model = torch.nn.Linear(3, 2)
    x = torch.zeros(1, 3, requires_grad=True)
    found = local_lipschitz(model, x, 1.0, ascent_steps=2)
    assert not found.ascent.requires_grad
    assert x.grad is None and model.weight.grad is None


@pytest.mark.parametrize(
    "arguments", [{"radius": 0.0}, {"directions": 0}, {"ascent_steps": -1}, {"norm": "l1"}]
)
def test_bad_arguments_raise(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        local_lipschitz(lambda x: x, torch.zeros(1, 2), **({"radius": 1.0} | arguments))


def test_a_chord_that_is_nan_is_reported():
    factor = torch.tensor([[1.0], [float("nan")]])
    found = local_lipschitz(lambda x: factor * x, torch.zeros(2, 3), 0.1)
    for values in (found.random, found.ascent):
        torch.testing.assert_close(values, torch.tensor([1.0, float("nan")]), equal_nan=True)


def test_it_runs_without_gradients_and_with_one_number_a_sample():
    with torch.no_grad():
        found = local_lipschitz(lambda x: x.sum(dim=1), torch.zeros(2, 4), 1.0, ascent_steps=40)
    torch.testing.assert_close(found.ascent, torch.full((2,), 2.0), rtol=1e-3, atol=0)


def test_what_is_no_batch_raises():
    for x in (torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="x has shape"):
            local_lipschitz(lambda x: x, x, 1.0)
    with pytest.raises(ValueError, match="f returned"):
        local_lipschitz(lambda x: x.sum(), torch.zeros(2, 3), 1.0)
