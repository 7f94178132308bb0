"""Penalties on the input's derivatives: against dense ones, with batch normalisation, and in an ensemble."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.models import MLP, ViT
from faultlines.training import InputGradient, MapSteadiness, fit_ensemble
from faultlines.training.objectives.input_penalties import CurvaturePenalty


def mlp(**options):
    torch.manual_seed(0)
    return MLP(
        **{"image_shape": (1, 3, 3), "classes": 3, "widths": (6,), "activation": "gelu", **options}
    ).double()


def batch(n=5, side=3):
    x = torch.rand(n, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(n) % 3


def by_hand(model, x, y, step):
    """The penalty from the dense Hessian of one sample, or from differences of one sample's gradient."""
    values = []
    for i in range(len(x)):

        def loss(z, i=i):
            return F.cross_entropy(model(z.view(1, *x.shape[1:])), y[i : i + 1])

        flat = x[i].flatten()
        g = torch.autograd.functional.jacobian(loss, flat)
        z = g.sign() / g.sign().norm()
        if step is None:
            values.append((torch.autograd.functional.hessian(loss, flat) @ z).square().sum())
        else:
            ahead = torch.autograd.functional.jacobian(loss, flat + step * z)
            values.append(((ahead - g) / step).square().sum())
    return torch.stack(values).mean()


@pytest.mark.parametrize("step", [None, 0.3, 1e-4])
@pytest.mark.parametrize("make", [mlp, lambda: mlp(norm="hidden", norm_kind="layer")])
def test_curvature_penalty_against_dense_hessians(make, step):
    model, (x, y) = make(), batch()
    loss, terms = CurvaturePenalty(0.7, step)(model, x, y)
    assert terms["curvature"].item() == pytest.approx(by_hand(model, x, y, step).item(), rel=1e-8)
    assert loss.item() == pytest.approx((F.cross_entropy(model(x), y) + 0.7 * terms["curvature"]).item())


def test_a_small_step_is_the_exact_product():
    model, (x, y) = mlp(), batch()
    exact, near = (CurvaturePenalty(1.0, step)(model, x, y)[1]["curvature"].item() for step in (None, 1e-5))
    assert near == pytest.approx(exact, rel=1e-3)
    relu = mlp(activation="relu")  # the loss of a ReLU network is curved through its softmax only
    assert CurvaturePenalty(1.0, None)(relu, x, y)[1]["curvature"] > 0
    assert (
        CurvaturePenalty(1.0, None)(lambda x: 0 * relu(x), x, y)[1]["curvature"] == 0
    )  # no direction, no curvature


@pytest.mark.parametrize(
    "objective", [CurvaturePenalty(0.5, 0.2), CurvaturePenalty(0.5, None), InputGradient(0.5)]
)
def test_the_gradient_in_the_weights(objective):
    torch.manual_seed(0)
    model = ViT(
        image_size=4, patch_size=2, channels=1, classes=3, dim=4, depth=1, heads=2, fused="always"
    ).double()
    x, y = batch(4, side=4)
    objective(model, x, y)[0].backward()
    weight = model.head.weight
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(2))
    ends = []
    for h in (1e-6, -1e-6):
        with torch.no_grad():
            weight += h * direction
        ends.append(objective(model, x, y)[0].item())
        with torch.no_grad():
            weight -= h * direction
    assert (weight.grad * direction).sum().item() == pytest.approx(
        (ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9
    )


@pytest.mark.parametrize("objective", [InputGradient(0.5), CurvaturePenalty(0.5, 0.2)])
def test_batch_normalisation_in_training_mode(objective):
    model, (x, y) = mlp(norm="hidden").train(), batch()
    loss, _ = objective(model, x, y)
    loss.backward()
    norm = model.hidden[0][1]
    assert norm.num_batches_tracked >= 1 and not torch.equal(norm.running_mean, torch.zeros(6))
    assert all(p.grad.isfinite().all() for p in model.parameters())
    if isinstance(objective, InputGradient):
        plain = copy.deepcopy(model)
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(plain(z), y, reduction="sum"), z, create_graph=True)
        expected = F.cross_entropy(plain(x), y) + 0.5 * gradient.flatten(1).square().sum(1).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


def test_members_at_once_equal_members_in_turn():
    x, y = batch(30)
    arms = {"a": CurvaturePenalty(0.1, 0.2), "b": CurvaturePenalty(0.5, 0.2), "c": InputGradient(0.3)}
    options = {"seeds": [0, 1], "arms": arms, "epochs": 3, "batch_size": 10, "lr": 0.01}

    def make():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(9, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)
        ).double()

    at_once, in_turn = (fit_ensemble(make, x, y, vectorize=v, **options) for v in ("always", "never"))
    torch.testing.assert_close(at_once(x), in_turn(x), rtol=1e-8, atol=1e-10)


def test_descent_lowers_the_penalty():
    model, (x, y) = mlp(), batch(20)
    before = CurvaturePenalty(1.0, 0.2)(model, x, y)[1]["curvature"].item()
    stepper = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(30):
        stepper.zero_grad()
        CurvaturePenalty(20.0, 0.2)(model, x, y)[0].backward()
        stepper.step()
    assert CurvaturePenalty(1.0, 0.2)(model, x, y)[1]["curvature"].item() < 0.7 * before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CurvaturePenalty(-1.0), r"coefficient=-1\.0"),
        (lambda: CurvaturePenalty(math.nan), "coefficient=nan"),
        (lambda: CurvaturePenalty(1.0, 0.0), r"step=0\.0"),
        (lambda: CurvaturePenalty(1.0, -0.1), r"step=-0\.1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Quadratic(nn.Module):
    """Logits x'A_y x / 2 of flat samples: the map of class y is A_y x, for symmetric A."""

    def __init__(self):
        super().__init__()
        a = torch.rand(3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        self.a = nn.Parameter(a + a.mT)

    def forward(self, x):
        flat = x.flatten(1)
        return torch.einsum("bi,kij,bj->bk", flat, self.a, flat) / 2


def test_map_steadiness_is_the_cosine_of_two_maps_known_in_closed_form():
    model, (x, y) = Quadratic(), batch(6)
    torch.manual_seed(7)
    loss, terms = MapSteadiness(16.0, 0.1)(model, x, y)
    torch.manual_seed(7)
    signs = 2.0 * torch.randint(0, 2, x.shape).double() - 1
    turns = []
    for i in range(len(x)):
        here, beside = (model.a[y[i]] @ z[i].flatten() for z in (x, x + 0.1 * signs))
        turns.append(1 - here @ beside / (here.norm() * beside.norm()))
    turn = torch.stack(turns).mean()
    assert terms["turn"].item() == pytest.approx(turn.item(), rel=1e-10)
    assert loss.item() == pytest.approx((F.cross_entropy(model(x), y) + 16 * turn).item(), rel=1e-10)


def test_a_linear_network_has_one_map_and_nothing_to_penalise():
    x, y = batch()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    assert MapSteadiness(1.0)(linear, x, y)[1]["turn"].item() == pytest.approx(0, abs=1e-12)


def test_descent_makes_maps_steadier():
    model, (x, y) = mlp(norm="hidden", activation="relu"), batch(20)

    def turn():
        torch.manual_seed(0)
        return MapSteadiness(1.0)(model.train(), x, y)[1]["turn"].item()

    before, stepper = turn(), torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(60):
        stepper.zero_grad()
        MapSteadiness(16.0)(model, x, y)[0].backward()
        stepper.step()
    assert turn() < 0.5 * before


def test_map_steadiness_is_trained_one_network_at_a_time():
    x, y = batch(20)
    options = {"seeds": [0, 1], "arms": {"a": MapSteadiness(1.0)}, "epochs": 1, "batch_size": 10}

    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.GELU(), nn.Linear(4, 3)).double()

    assert not fit_ensemble(make, x, y, vectorize="auto", **options).vectorized
    with pytest.raises(ValueError, match="random"):
        fit_ensemble(make, x, y, vectorize="always", **options)
