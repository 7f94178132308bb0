from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.models import ViT, record
from faultlines.training import Adversarial, CrossEntropy, InputGradient, JaSMin, jasmin

NEEDING_MAPS = [JaSMin(0.1), JaSMin(0.1, k=2)]


def vit(**options):
    torch.manual_seed(0)
    options = {"dim": 8, "depth": 2, "heads": 2, "qk_gain": 3.0, **options}
    return ViT(image_size=4, patch_size=2, channels=1, classes=3, **options).double()


def batch(n=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def maps(n=5, layers=2, scale=2.0):
    generator = torch.Generator().manual_seed(2)
    return [
        (scale * torch.randn(3, 2, 4, n, dtype=torch.float64, generator=generator)).softmax(-1)
        for _ in range(layers)
    ]


def g(row, k):
    """The paper's g_k, by hand on one row."""
    p = sorted(row.tolist(), reverse=True) + [0.0]
    return p[k - 1] * (1 - p[k - 1] + p[k])


@pytest.mark.parametrize("k", [0, 2, 3, 5])
@pytest.mark.parametrize("rows", ["max", "mean"])
@pytest.mark.parametrize("layers", ["mean", "sum", "last"])
def test_jasmin_is_the_formula_row_by_row(k, rows, layers):
    given, per_layer = maps(), []
    for p in given:
        values = []
        for head in p.flatten(0, 1):
            logs = [math.log(g(row, 1)) - (math.log(g(row, k)) if k else 0) for row in head]
            values.append(max(logs) if rows == "max" else sum(logs) / len(logs))
        per_layer.append(sum(values) / len(values))
    expected = {"mean": sum(per_layer) / 2, "sum": sum(per_layer), "last": per_layer[-1]}[layers]
    assert jasmin(given, k, rows=rows, layers=layers).item() == pytest.approx(expected, abs=1e-12)


def test_jasmin_at_its_attractors():
    uniform = torch.full((2, 3, 7, 7), 1 / 7, dtype=torch.float64)
    assert jasmin([uniform]).item() == pytest.approx(-math.log(7))
    assert jasmin([uniform], k=2).item() == pytest.approx(0, abs=1e-12)
    one_hot = torch.eye(7, dtype=torch.float64).expand(2, 3, 7, 7)
    assert jasmin([one_hot]).item() == pytest.approx(math.log(1e-12))
    assert jasmin([one_hot], k=2).item() == pytest.approx(0)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_jasmin_k_is_never_negative(k, scale):
    for p in maps(scale=scale):
        for row in p.flatten(0, 2):
            assert jasmin([row.view(1, 1, 1, -1)], k=k).item() >= -1e-12


def test_half_precision_is_raised():
    p = maps()[0]
    half = jasmin([p.to(torch.bfloat16)])
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(jasmin([p]).item(), abs=0.05)


@pytest.mark.parametrize("k", [0, 2, 3])
@pytest.mark.parametrize("rows", ["max", "mean"])
def test_jasmin_gradient(k, rows):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 2, 3, 5, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: jasmin([s.softmax(-1)], k, rows=rows), (scores,))


def test_descent_on_jasmin_lowers_the_bound():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(1, 1, 1, 6, dtype=torch.float64, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(jasmin([scores.softmax(-1)]), scores)
    stepped = scores - 0.1 * gradient
    assert g(stepped.detach().softmax(-1).flatten(), 1) < g(scores.detach().softmax(-1).flatten(), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JaSMin(0.1, k=1), "k=1 makes JaSMin_1"),
        (lambda: JaSMin(0.1, k=-2), "k=-2"),
        (lambda: JaSMin(0.1, k=2.0), "k=2.0"),
        (lambda: JaSMin(-0.1), "coefficient=-0.1"),
        (lambda: JaSMin(0.1, rows="min"), "rows='min'"),
        (lambda: JaSMin(0.1, layers="first"), "layers='first'"),
        (lambda: jasmin([]), "recorded none"),
        (lambda: jasmin(maps(), 6), "k=6 exceeds the number of keys, 5"),
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing=1.5"),
        (lambda: JaSMin(math.nan), "coefficient=nan"),
        (lambda: InputGradient(math.inf), "coefficient=inf"),
        (lambda: Adversarial(-0.1), "eps=-0.1"),
        (lambda: Adversarial(0.1, steps=0), "steps=0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("objective", NEEDING_MAPS)
def test_a_network_without_attention_is_refused(objective):
    with pytest.raises(ValueError, match="recorded none"):
        objective(nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1]))


def test_losses_are_cross_entropy_plus_their_term():
    model, (x, y) = vit(), batch()
    with record() as tape:
        plain = F.cross_entropy(model(x), y)
    expected = {
        CrossEntropy(): plain,
        CrossEntropy(0.2): 0.8 * plain - 0.2 * F.log_softmax(model(x), -1).mean(),
        JaSMin(0.3, k=2): plain + 0.3 * jasmin(tape.maps, 2),
    }
    for objective, value in expected.items():
        assert objective(model, x, y)[0].item() == pytest.approx(value.item(), rel=1e-12), objective


def test_input_gradient_against_one_sample_at_a_time():
    model, (x, y) = vit(fused="always"), batch()
    squares = []
    for i in range(len(x)):
        one = x[i : i + 1].clone().requires_grad_()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(one), y[i : i + 1]), one)
        squares.append(gradient.square().sum())
    loss, terms = InputGradient(0.5)(model, x, y)
    assert terms["input_gradient"].item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-10)
    loss.backward()  # needs the second derivative, hence the explicit form even where the model would fuse
    weight = model.head.weight  # not all ones: a shift that all classes share changes nothing
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(2))

    def shifted(h):
        with torch.no_grad():
            weight.add_(h * direction)
            value = InputGradient(0.5)(model, x, y)[0].item()
            weight.sub_(h * direction)
        return value

    slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
    assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_adversarial_loss_on_a_linear_model_is_its_maximum(steps):
    # two classes and a linear model: the worst point of the ball is known, x + eps * sign of the margin's gradient
    torch.manual_seed(0)
    model = nn.Linear(9, 2).double()
    x = 0.3 + 0.4 * torch.rand(5, 9, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    direction = (model.weight[1 - y] - model.weight[y]).sign()
    worst = F.cross_entropy(model(x + 0.1 * direction), y)
    loss, _ = Adversarial(0.1, steps=steps)(model, x, y)
    assert loss.item() == pytest.approx(worst.item(), rel=1e-12)
    (expected,) = torch.autograd.grad(worst, model.weight)
    (gradient,) = torch.autograd.grad(loss, model.weight)
    assert torch.allclose(gradient, expected)  # the attack is a constant to the weights


def test_adversarial_inputs_stay_in_the_box_and_the_ball():
    seen = []

    def model(x):
        seen.append(x.detach())
        return torch.stack([x.sum(1), -x.sum(1)], dim=1)

    x = torch.rand(8, 4)
    Adversarial(0.3, steps=4)(model, x, torch.zeros(8, dtype=torch.long))
    attacked = seen[-1]
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert (attacked - x).abs().max() <= 0.3 + 1e-6
    assert torch.allclose(attacked, (x - 0.3).clamp(0, 1))
