"""Attacks on explanations: derivatives, oracles, the prediction that stays, edges, and that nothing is changed."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.attacks.attack import Victim, check_logits
from faultlines.attacks.explanation import (
    Cosine,
    ExplanationNoise,
    ExplanationPGD,
    MassCentre,
    Spearman,
    TopK,
)
from faultlines.attacks.explanation.objective import ChangedExplanation
from faultlines.attacks.norms import as_norm
from faultlines.estimators.attribution import attribute

SALIENCY = partial(attribute, method="gradient", create_graph=True)
CRITERIA = {c.name: c for c in (TopK(10), MassCentre(), Cosine(), Spearman())}
NORMS = [("linf", 0.1), ("l2", 0.6)]

each_criterion = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_cnn(classes=3):
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, classes),
        )
        .double()
        .eval()
    )


def relu_cnn(inplace=False):
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 3),
        )
        .double()
        .eval()
    )


def images(n=3, size=6, channels=2):
    return torch.rand(n, channels, size, size, generator=seeded(), dtype=torch.float64)


def plug(model, criterion, x, y, explain=SALIENCY, **options):
    options = {"reject": True, "penalty": 0.0, "beta": None, "climbs": True} | options
    with torch.enable_grad():
        return ChangedExplanation(Victim(model, y, check_logits), explain, criterion, x, y, **options)


# derivatives


@pytest.mark.parametrize("penalty", [0.0, 5.0])
@pytest.mark.parametrize("beta", [None, 8.0])
@pytest.mark.parametrize("method", ["gradient", "input_x_gradient"])
@pytest.mark.parametrize("criterion", [TopK(7), MassCentre(), Cosine(), Spearman()], ids=lambda c: c.name)
def test_gradient_is_that_of_the_loss(criterion, method, beta, penalty):
    """Central differences in float64 of the criterion of the (smoothed) network's own map."""
    model = smooth_cnn() if beta is None else relu_cnn()
    explain = partial(attribute, method=method, create_graph=True)
    x, y = images(), torch.tensor([0, 1, 2])
    objective = plug(model, criterion, x, y, explain, beta=beta, penalty=penalty)
    z = (x + 0.05 * torch.randn(x.shape, generator=seeded(1), dtype=x.dtype)).clamp(0, 1).requires_grad_()
    value, _ = objective(z, torch.arange(3))
    (gradient,) = torch.autograd.grad(value.sum(), z)

    smooth = copy.deepcopy(model)
    if beta is not None:
        smooth[2] = nn.Softplus(beta)  # the surrogate by hand

    def loss(point):
        maps = attribute(smooth, point, y, method=method)
        change = (smooth(point).softmax(1) - model(x).softmax(1)).square().sum(1)
        return (criterion.loss(maps, objective.reference) - penalty * change).detach()

    direction = torch.randn(x.shape, generator=seeded(2), dtype=x.dtype)
    h = 1e-6
    numeric = (loss(z + h * direction) - loss(z - h * direction)) / (2 * h)
    analytic = (gradient * direction).flatten(1).sum(1)
    assert analytic.abs().max() > 1e-4
    assert torch.allclose(analytic, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["raw_attention", "rollout", "gradient"])
def test_attention_maps_are_attacked_through_their_explicit_form(trained, digits, method):
    model, x, y = copy.deepcopy(trained).double(), digits.x_test[:4].double(), digits.y_test[:4]
    explain = partial(attribute, method=method, create_graph=True)
    objective = plug(model, Cosine(), x, y, explain)
    z = (x + 0.1 * torch.rand(x.shape, generator=seeded(), dtype=x.dtype)).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(z, torch.arange(4))[0].sum(), z)
    direction = torch.randn(x.shape, generator=seeded(2), dtype=x.dtype)
    with torch.no_grad():
        up, down = (objective(z + h * direction, torch.arange(4))[0] for h in (1e-6, -1e-6))
    analytic = (gradient * direction).flatten(1).sum(1)
    assert analytic.abs().max() > 1e-5
    assert torch.allclose(analytic, (up - down) / 2e-6, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("method", ["raw_attention", "rollout"])
def test_attention_maps_fall_below_noise(trained, digits, method):
    x, y = digits.x_test[:40], digits.y_test[:40]
    explain = partial(attribute, method=method, create_graph=True)
    attack, noise = (
        ExplanationPGD(explain, "cosine", eps=0.1, steps=10),
        ExplanationNoise(explain, "cosine", eps=0.1, draws=11),
    )
    assert attack(trained, x, y).score.mean() < noise(trained, x, y).score.mean() - 0.01


def test_fused_attention_is_refused(trained, digits):
    model = copy.deepcopy(trained)
    for block in model.blocks:
        block.attention.fused = "always"

    def hides_the_form(model, x, y):
        return torch.autograd.grad(model(x).gather(1, y[:, None]).sum(), x, create_graph=True)[0][:, 0]

    with pytest.raises(ValueError, match="no second derivative"):
        ExplanationPGD(hides_the_form, "cosine", eps=0.1, steps=2)(
            model, digits.x_test[:2], digits.y_test[:2]
        )


# oracles


class TwoPixels(nn.Module):
    """Two classes of two pixels, bent differently, so that a ball holds several local optima of the map's angle."""

    def forward(self, x):
        a, b = x.flatten(1).unbind(1)
        first = torch.sin(9 * a) * b + 3 * (a - 0.4) ** 3 + 0.3 * b
        return torch.stack([first, 0.3 - 0.4 * a + 0.2 * torch.cos(7 * b)], dim=1)


@pytest.mark.parametrize(
    ("criterion", "norm"),
    [
        (Cosine(), "linf"),
        (Cosine(), "l2"),
        (MassCentre(), "l2"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_two_pixels_against_every_point_of_a_grid(criterion, norm):
    """Without a constraint the attack finds the lowest score of the ball; with rejection most of what may be taken.

    Rejection walks through points that it may not take, and need not come near a corner of the region that it may.
    """
    model, eps = TwoPixels(), 0.15
    x = torch.tensor([[0.2, 0.7], [0.5, 0.5], [0.8, 0.1], [0.05, 0.9]], dtype=torch.float64)[:, None, None]
    y = torch.zeros(4, dtype=torch.int64)
    # the lowest angles lie at kinks, across which a walk bounces by the length of its step
    options = {"eps": eps, "norm": norm, "steps": 70, "step_size": eps / 50, "restarts": 5}
    attack = partial(ExplanationPGD, SALIENCY, criterion, **options)
    free, held = attack(reject=False)(model, x, y), attack()(model, x, y)
    axis = torch.linspace(-eps, eps, 121, dtype=torch.float64)
    delta = torch.cartesian_prod(axis, axis)[:, None, None]
    delta = delta[as_norm(norm).size(delta) <= eps + 1e-12]
    label = model(x).argmax(1)
    rejected = 0
    for i in range(4):
        points = x[i] + delta
        points = points[(points.flatten(1) >= 0).all(1) & (points.flatten(1) <= 1).all(1)]
        reference = criterion.reference(attribute(model, x[i : i + 1], y[:1]))
        maps = attribute(model, points, torch.zeros(len(points), dtype=torch.int64))
        scores = criterion.score(maps, reference.expand(len(points), -1))
        stays = model(points).argmax(1) == label[i]
        rejected += int((~stays).sum())
        assert scores[stays].min() < 0.99
        assert abs(free.score[i] - scores.min()) < 0.05
        assert (
            held.score[i] > scores[stays].min() - 0.02
        )  # finer than the grid, but nothing is found that is not there
        assert 1 - held.score[i] > 0.6 * (1 - scores[stays].min())
    assert rejected  # the constraint binds somewhere


@each_criterion
def test_linear_models_have_nothing_to_attack(criterion):
    """The saliency of a linear model is its weight wherever one stands: the score is exactly 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, y = images(5, 8, 1).float(), torch.tensor([0, 1, 2, 0, 1])
    result = ExplanationPGD(SALIENCY, criterion, eps=0.3, steps=4, restarts=2)(model, x, y)
    assert (result.score == 1).all()
    assert not result.success.any()
    assert torch.equal(result.x_adv, x)
    assert torch.equal(result.explanation, result.clean_explanation)


# trained networks


@each_criterion
@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_result_is_what_it_says_and_below_noise(cnn, digits, criterion, norm, eps):
    x, y = digits.x_test[:60], digits.y_test[:60]
    attack = ExplanationPGD(SALIENCY, criterion, eps=eps, norm=norm, steps=10, surrogate_beta=10)
    result = attack(cnn, x, y, generator=seeded())
    assert (attack.norm.size(result.x_adv - x) <= eps + 1e-6).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    with torch.no_grad():
        assert torch.equal(cnn(result.x_adv).argmax(1), cnn(x).argmax(1))
    assert result.kept.all()
    assert result.surrogate == "softplus(beta=10) for ReLU"
    # maps and scores are the ReLU network's own
    assert torch.equal(result.clean_explanation, attribute(cnn, x, y))
    assert torch.allclose(result.explanation, attribute(cnn, result.x_adv, y), atol=1e-5)
    reference = criterion.reference(result.clean_explanation)
    assert torch.equal(result.score, criterion.score(result.explanation, reference))
    assert (result.score <= 1).all()
    assert torch.equal(result.success, result.score < 1)
    assert ((result.kept_share >= 0) & (result.kept_share <= 1)).all()
    # random points of the sphere, as many as the attack has looked at
    noise = ExplanationNoise(SALIENCY, criterion, eps=eps, norm=norm, draws=11)(cnn, x, y)
    assert noise.surrogate is None
    assert result.score.mean() < noise.score.mean()


@pytest.mark.parametrize("criterion", [TopK(10), Cosine()], ids=lambda c: c.name)
def test_transformers_need_no_surrogate(trained, digits, criterion):
    x, y = digits.x_test[:40], digits.y_test[:40]
    one, other = (
        ExplanationPGD(SALIENCY, criterion, eps=0.08, steps=8, surrogate_beta=beta)(trained, x, y)
        for beta in (None, 30)
    )
    assert one.surrogate is None
    assert other.surrogate is None
    assert torch.equal(one.x_adv, other.x_adv)
    noise = ExplanationNoise(SALIENCY, criterion, eps=0.08, draws=9)(trained, x, y)
    assert one.score.mean() < noise.score.mean() - 0.02


class TestThePredictionStays:
    def test_by_rejection(self, trained, digits):
        x, y = digits.x_test[:60], digits.y_test[:60]
        eps = 0.4
        free = ExplanationPGD(SALIENCY, "cosine", eps=eps, steps=6, reject=False)(trained, x, y)
        held = ExplanationPGD(SALIENCY, "cosine", eps=eps, steps=6)(trained, x, y)
        with torch.no_grad():
            label = trained(x).argmax(1)
            assert torch.equal(trained(free.x_adv).argmax(1) == label, free.kept)
            assert torch.equal(trained(held.x_adv).argmax(1), label)
        assert 0.05 < free.kept.float().mean() < 0.95  # else rejection has nothing to do
        assert not (free.success & ~free.kept).any()
        assert (free.score <= held.score).all()  # the same walk, more points to choose from
        none = held.kept_share == 0
        assert torch.equal(held.x_adv[none], x[none])
        assert (held.score[none] == 1).all()
        assert torch.equal(held.kept_share, free.kept_share)

    def test_by_penalty(self, trained, digits):
        x, y = digits.x_test[:60], digits.y_test[:60]
        shares = [
            ExplanationPGD(SALIENCY, "cosine", eps=0.4, steps=10, reject=False, penalty=penalty)(
                trained, x, y
            )
            .kept.float()
            .mean()
            for penalty in (0.0, 10.0)
        ]
        assert shares[1] > shares[0] + 0.1

    def test_the_prediction_of_a_wrong_model_stays_too(self, trained, digits):
        x = digits.x_test[:20]
        with torch.no_grad():
            label = trained(x).argmax(1)
            y = (label + 1) % 10  # the class explained is not the one predicted
            result = ExplanationPGD(SALIENCY, TopK(10), eps=0.1, steps=5)(trained, x, y)
            assert torch.equal(trained(result.x_adv).argmax(1), label)
        assert result.success.any()


@each_criterion
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [partial(ExplanationPGD, surrogate_beta=10), ExplanationNoise])
def test_eps_zero_returns_the_input(cnn, digits, attack, criterion, norm):
    x, y = digits.x_test[:10], digits.y_test[:10]
    result = attack(SALIENCY, criterion, eps=0, norm=norm)(cnn, x, y)
    assert torch.equal(result.x_adv, x)
    assert (result.score == 1).all()
    assert result.kept.all()
    assert not result.success.any()
    assert result.kept_share.isnan().all()


def test_restarts_are_never_worse(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    fewer, more = (
        ExplanationPGD(SALIENCY, TopK(10), eps=0.06, steps=3, restarts=n)(trained, x, y) for n in (1, 3)
    )
    assert (more.score <= fewer.score).all()
    assert (more.score < fewer.score).any()


@pytest.mark.parametrize("attack", [partial(ExplanationPGD, steps=2), partial(ExplanationNoise, draws=2)])
def test_generator_decides(trained, digits, attack):
    x, y = digits.x_test[:10], digits.y_test[:10]
    run, state = attack(SALIENCY, "cosine", eps=0.06), torch.get_rng_state()
    one, same, other = (run(trained, x, y, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.x_adv, same.x_adv)
    assert not torch.equal(one.x_adv, other.x_adv)
    assert torch.equal(run(trained, x, y).x_adv, run(trained, x, y).x_adv)
    assert torch.equal(torch.get_rng_state(), state)


@each_criterion
def test_batch_of_one_is_one_of_the_batch(trained, digits, criterion):
    x, y = digits.x_test[:4].double(), digits.y_test[:4]
    model = copy.deepcopy(trained).double()
    start = (x + 0.02 * torch.rand(x.shape, generator=seeded(), dtype=x.dtype)).clamp(0, 1)
    attack = ExplanationPGD(SALIENCY, criterion, eps=0.05, steps=4, random_start=False)
    together = attack(model, start, y)
    for i in range(4):
        alone = attack(model, start[i : i + 1], y[i : i + 1])
        assert (alone.x_adv[0] - together.x_adv[i]).abs().max() < 1e-9
        assert abs(alone.score[0] - together.score[i]) < 1e-9


def test_noise_is_of_the_attacks_size():
    """Before the box cuts it, every perturbation lies on the sphere."""
    model, x = smooth_cnn(), torch.full((20, 2, 6, 6), 0.5, dtype=torch.float64)
    y = torch.zeros(20, dtype=torch.int64)
    for norm in ("linf", "l2"):
        result = ExplanationNoise(SALIENCY, "cosine", eps=0.3, norm=norm, reject=False)(model, x, y)
        size = as_norm(norm).size(result.x_adv - x)
        assert torch.allclose(size, torch.full_like(size, 0.3))
    assert (ExplanationNoise(SALIENCY, "cosine", eps=0.3)(model, x, y).score < 1).any()


def test_one_draw_of_noise_by_hand(trained, digits):
    x, y = digits.x_test[:60], digits.y_test[:60]
    criterion = TopK(2)
    free, held = (ExplanationNoise(SALIENCY, criterion, eps=0.4, reject=reject) for reject in (False, True))
    free, held = free(trained, x, y), held(trained, x, y)
    direction = torch.randn(x.shape, generator=seeded()).sign()
    z = (x + 0.4 * direction).clamp(0, 1)
    with torch.no_grad():
        stays = trained(z).argmax(1) == trained(x).argmax(1)
    scores = criterion.score(attribute(trained, z, y), criterion.reference(attribute(trained, x, y)))
    nearer = scores < 1  # noise may spare the top pixels: then the clean sample is the best there is
    for result, taken in ((free, nearer), (held, nearer & stays)):
        assert 0 < taken.sum() < 60
        assert torch.allclose(result.x_adv[taken], z[taken])
        assert torch.equal(result.x_adv[~taken], x[~taken])
        assert torch.allclose(result.score, torch.where(taken, scores, 1), atol=1e-4)
        assert torch.equal(result.kept_share, stays.float())
        assert torch.equal(result.success, taken & stays)
    assert torch.equal(free.kept, stays | ~nearer)
    assert held.kept.all()


# edges


@each_criterion
@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_maps_of_zeros_and_tiny_maps(criterion, scale):
    """A model whose gradient is zero has the map 0 everywhere; one of 1e-30 is attacked like any other."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    offset = torch.tensor([1.0, 0.0, 0.0])
    x, y = images(4, 8, 1).float(), torch.tensor([0, 1, 0, 2])
    result = ExplanationPGD(SALIENCY, criterion, eps=0.3, steps=3)(lambda z: offset + scale * net(z), x, y)
    assert result.score.isfinite().all()
    assert result.x_adv.isfinite().all()
    assert result.kept.all()
    if scale == 0:
        assert (result.score == 1).all()
        assert torch.equal(result.x_adv, x)
    else:
        assert (result.score <= 1).all()
        assert (result.score < 1).any()


def test_a_dead_relu_network_is_no_error():
    """Maps of zeros are no sign of a missing surrogate."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].bias.fill_(-100)
    result = ExplanationPGD(SALIENCY, "cosine", eps=0.1, steps=2)(
        model, images(2, 8, 1).float(), torch.tensor([0, 1])
    )
    assert (result.score == 1).all()


def test_functions_are_models_too(trained, digits):
    x, y = digits.x_test[:5], digits.y_test[:5]
    attack = ExplanationPGD(SALIENCY, TopK(5), eps=0.05, steps=3)
    # weights of a function are not frozen, which may take another rounding
    difference = attack(lambda z: trained(z), x, y).score - attack(trained, x, y).score
    assert difference.abs().max() <= 0.2


def test_explanations_that_never_ask_at_the_point_itself(trained, digits):
    """Integrated gradients with one midpoint: the forward pass for the prediction is made beside it."""

    def midpoint(model, x, y):
        return SALIENCY(model, x / 2, y)

    x, y = digits.x_test[:20], digits.y_test[:20]
    result = ExplanationPGD(midpoint, "cosine", eps=0.1, steps=5)(trained, x, y)
    with torch.no_grad():
        assert torch.equal(trained(result.x_adv).argmax(1), trained(x).argmax(1))
    assert torch.allclose(result.explanation, attribute(trained, result.x_adv / 2, y), atol=1e-5)
    assert torch.equal(result.success, result.kept_share > 0)
    assert result.success.float().mean() > 0.9


class TestNothingIsChanged:
    @pytest.mark.parametrize(
        "attack", [partial(ExplanationPGD, steps=3, surrogate_beta=10), partial(ExplanationNoise, draws=2)]
    )
    def test_model_and_tensors(self, cnn, digits, attack):
        model = copy.deepcopy(cnn)
        x, y = digits.x_test[:10].clone(), digits.y_test[:10].clone()
        kept, values = (x.clone(), y.clone()), copy.deepcopy(model.state_dict())
        parameters, forwards = dict(model.named_parameters()), [layer.forward for layer in model.modules()]
        model[0].weight.requires_grad_(False)
        with torch.no_grad():
            attack(SALIENCY, "cosine", eps=0.1)(model, x, y)
            assert not torch.is_grad_enabled()
        assert torch.equal(x, kept[0])
        assert torch.equal(y, kept[1])
        assert not x.requires_grad
        for key, parameter in model.named_parameters():
            assert parameter is parameters[key]
            assert parameter.grad is None
            assert parameter.requires_grad == (key != "0.weight")
        assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
        assert [layer.forward for layer in model.modules()] == forwards
        assert not any("forward" in vars(layer) for layer in model.modules())
        assert not any(layer._forward_hooks for layer in model.modules())
        assert not model.training

    def test_gradient_mode_of_the_caller_does_not_matter(self, trained, digits):
        x, y = digits.x_test[:10], digits.y_test[:10]
        attack = ExplanationPGD(SALIENCY, TopK(10), eps=0.08, steps=3)
        plain = attack(trained, x, y)
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                assert torch.equal(attack(trained, x.clone(), y.clone()).score, plain.score)

    def test_after_an_exception(self, cnn, digits):
        model = copy.deepcopy(cnn)

        def fails(model, x, y):
            model(x)
            raise RuntimeError("broken explanation")

        with pytest.raises(RuntimeError, match="broken explanation"):
            ExplanationPGD(fails, "cosine", eps=0.1)(model, digits.x_test[:2], digits.y_test[:2])
        assert not any("forward" in vars(layer) for layer in model.modules())
        assert model[0].weight.requires_grad

    def test_dropout_is_refused_as_by_the_explanation_itself(self, cnn, digits):
        model = nn.Sequential(nn.Dropout(0.1), copy.deepcopy(cnn)).train()
        with pytest.raises(ValueError, match=r"Dropout in training mode.*model\.eval\(\)"):
            ExplanationNoise(SALIENCY, "cosine", eps=0.1)(model, digits.x_test[:2], digits.y_test[:2])
        assert model.training


# bad input


def test_relu_without_a_surrogate(cnn, digits):
    x, y = digits.x_test[:4], digits.y_test[:4]
    with pytest.raises(ValueError, match=r"surrogate_beta=None.*piecewise constant"):
        ExplanationPGD(SALIENCY, "cosine", eps=0.1)(cnn, x, y)
    with pytest.raises(ValueError, match="piecewise constant"):
        ExplanationPGD(SALIENCY, "cosine", eps=0.1)(lambda z: F.leaky_relu(cnn(z)), x, y)
    times_input = partial(attribute, method="input_x_gradient", create_graph=True)
    with pytest.warns(UserWarning, match="input gradient is piecewise constant"):
        ExplanationPGD(times_input, "cosine", eps=0.1, steps=2)(cnn, x, y)
    ExplanationNoise(SALIENCY, "cosine", eps=0.1)(cnn, x, y)  # follows no gradient


RECTIFIERS = {
    "clamp": lambda z: z.clamp(min=0),
    "maximum": lambda z: torch.maximum(z, torch.zeros(())),
    "where": lambda z: torch.where(z > 0, z, 0),
    "threshold": lambda z: F.threshold(z, 0.0, 0.0),
    "abs": torch.abs,
}


@pytest.mark.parametrize("beta", [None, 30.0])
@pytest.mark.parametrize("rectify", RECTIFIERS.values(), ids=RECTIFIERS)
def test_a_rectifier_that_no_surrogate_replaces_is_not_taken_for_robustness(rectify, beta):
    torch.manual_seed(0)
    first, last = nn.Linear(16, 32), nn.Linear(32, 3)
    x = torch.rand(5, 1, 4, 4)

    def model(z):
        return last(rectify(first(z.flatten(1))))

    y = model(x).argmax(dim=1)
    attack = ExplanationPGD(SALIENCY, "spearman", eps=0.3, steps=3, surrogate_beta=beta)
    with pytest.raises(ValueError, match=r"no slope to follow anywhere.*write it with relu"):
        attack(model, x, y)
    assert (
        attack(lambda z: last(first(z.flatten(1))), x, y).score == 1
    ).all()  # linear: one map for all points


def test_the_class_is_that_of_the_logits_where_probabilities_tie():
    torch.manual_seed(0)
    network, x = smooth_cnn().float(), torch.rand(20, 2, 6, 6)

    def faint(z):  # float32's softmax makes one number of what differs here
        return 1e-8 * network(z)

    before = faint(x).argmax(dim=1)
    assert (faint(x).softmax(dim=1).argmax(dim=1) != before).any()
    result = ExplanationPGD(SALIENCY, "spearman", eps=0.3, steps=6)(faint, x, before)
    assert result.kept.all()
    assert torch.equal(faint(result.x_adv).argmax(dim=1), before)


@pytest.mark.parametrize("criterion", [3, None, object()])
def test_what_is_no_criterion_is_named(criterion):
    with pytest.raises(ValueError, match="criterion="):
        ExplanationPGD(SALIENCY, criterion, eps=0.1)


@pytest.mark.parametrize(
    ("explain", "words"),
    [
        (partial(attribute, method="gradient"), "carry no graph"),
        (lambda model, x, y: model(x).sum(), "shape"),
        (lambda model, x, y: model(x)[:1], "shape"),
        (lambda model, x, y: None, "NoneType"),
        (lambda model, x, y: SALIENCY(model, x, y) / 0, "not finite for samples"),
    ],
)
def test_bad_explanations(trained, digits, explain, words):
    with pytest.raises(ValueError, match=words):
        ExplanationPGD(explain, "cosine", eps=0.1, steps=2)(trained, digits.x_test[:3], digits.y_test[:3])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.full((2, 1, 8, 8), 1.5)}, "x runs from 1.5"),
        ({"x": torch.zeros(0, 1, 8, 8), "y": torch.zeros(0, dtype=torch.int64)}, "must not be empty"),
        ({"y": torch.tensor([0, 10])}, "y has labels up to 10"),
        ({"y": torch.tensor([0, -1])}, "labels start at 0"),
        ({"criterion": TopK(65)}, "k=65 is more than the 64 pixels"),
        ({"criterion": "ssim"}, "criterion='ssim' is not one of"),
        ({"explain": "gradient"}, "explain='gradient'"),
        ({"eps": -1}, "eps=-1"),
        ({"norm": "l3"}, "norm='l3'"),
        ({"steps": 0}, "steps=0"),
        ({"step_size": 0}, "step_size=0"),
        ({"restarts": 2, "random_start": False}, "restarts=2"),
        ({"penalty": -1}, "penalty=-1"),
        ({"surrogate_beta": 0}, "surrogate_beta=0"),
    ],
)
def test_bad_input(trained, changes, words):
    given = {"x": torch.full((2, 1, 8, 8), 0.5), "y": torch.tensor([0, 1])}
    given |= {"explain": SALIENCY, "criterion": "cosine", "eps": 0.1, "steps": 2} | changes
    x, y, explain, criterion = (given.pop(name) for name in ("x", "y", "explain", "criterion"))
    with pytest.raises(ValueError, match=words):
        ExplanationPGD(explain, criterion, **given)(trained, x, y)
