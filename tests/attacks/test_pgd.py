"""PGD and FGSM against closed forms, against foolbox, and at the edges."""

from __future__ import annotations

import copy
from itertools import pairwise

import foolbox
import pytest
import torch
from torch import nn

from faultlines.attacks import FGSM, PGD

CASES = [("linf", 0.08), ("l2", 0.45)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(n=6):
    torch.manual_seed(0)
    model = nn.Linear(n, 2).double()
    x = 0.4 + 0.2 * torch.rand(8, n, dtype=torch.float64)  # the box is out of reach
    return model, x, torch.arange(8) % 2


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_model_closed_form(norm, dual, loss):
    """The worst margin over a ball is the clean one plus eps times the dual norm of the weight difference."""
    model, x, y = linear()
    result = PGD(eps=0.1, steps=60, step_size=0.1, norm=norm, loss=loss)(model, x, y, generator=seeded())
    other = 1 - y
    difference = model.weight[other] - model.weight[y]
    logits = model(x)
    clean = logits.gather(1, other[:, None]) - logits.gather(1, y[:, None])
    expected = clean[:, 0] + 0.1 * difference.norm(p=dual, dim=1)
    after = model(result.x_adv)
    found = (after.gather(1, other[:, None]) - after.gather(1, y[:, None]))[:, 0]
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(result.success, expected > 0)
    one_step = FGSM(eps=0.1, norm=norm, loss=loss)(model, x, y)
    assert torch.allclose(one_step.x_adv, result.x_adv, atol=1e-4)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_agrees_with_foolbox(trained, digits, norm, eps, random_start):
    """Robust accuracy within 0.02; with random starts as a mean, since one draw alone moves it by more."""
    x, y = digits.test
    peer = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    theirs = peer(abs_stepsize=2.5 * eps / 20, steps=20, random_start=random_start)
    peer_model = foolbox.PyTorchModel(copy.deepcopy(trained), bounds=(0, 1))  # it collects gradients
    ours = PGD(eps=eps, steps=20, norm=norm, random_start=random_start)
    robust, peer_robust = [], []
    for seed in range(5 if random_start else 1):
        torch.manual_seed(seed)  # foolbox draws from the global generator
        peer_robust.append(1 - theirs(peer_model, x, y, epsilons=eps)[2].float().mean())
        robust.append(1 - ours(trained, x, y, generator=seeded(seed)).success.float().mean())
    robust, peer_robust = torch.stack(robust).mean(), torch.stack(peer_robust).mean()
    assert 0.1 < peer_robust < 0.9  # else agreement says nothing
    assert abs(robust - peer_robust) <= 0.02


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_result_is_what_it_says(trained, digits, norm, eps, early_stop):
    x, y = digits.test
    attack = PGD(eps=eps, steps=5, restarts=2, norm=norm, early_stop=early_stop)
    result = attack(trained, x, y, generator=seeded())
    assert (attack.norm.size(result.x_adv - x) <= eps + 1e-6).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    with torch.no_grad():
        logits = trained(result.x_adv)
    assert torch.equal(logits.argmax(dim=1) != y, result.success)
    assert torch.allclose(attack.loss(logits, y), result.loss, atol=1e-4)
    assert result.gradients.max() <= 10
    if not early_stop:
        assert (result.gradients == 10).all()


def test_early_stop_finds_the_same_samples_for_less(trained, digits):
    x, y = digits.test
    attacks = [PGD(eps=0.08, steps=8, restarts=2, early_stop=stop) for stop in (False, True)]
    full, short = (attack(trained, x, y, generator=seeded()) for attack in attacks)
    assert torch.equal(full.success, short.success)
    assert (short.gradients[~short.success] == 16).all()
    assert short.gradients.sum() < 0.8 * full.gradients.sum()
    with torch.no_grad():
        wrong = trained(x).argmax(dim=1) != y
    assert wrong.any()
    assert torch.equal(short.x_adv[wrong], x[wrong])
    assert (short.gradients[wrong] == 0).all()


def test_early_stop_keeps_the_first_fooling_point(trained, digits):
    x, y = digits.test
    short = PGD(eps=0.2, steps=10, random_start=False, early_stop=True)(trained, x, y)
    walk = [FGSM(eps=0.0)(trained, x, y).success]
    z = x
    first = x.clone()
    done = walk[0].clone()
    for _ in range(10):
        z = z.detach().requires_grad_()
        loss = nn.functional.cross_entropy(trained(z), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        z = (x + (z.detach() + 0.05 * gradient.sign() - x).clamp(-0.2, 0.2)).clamp(0, 1)
        with torch.no_grad():
            fooled = (trained(z).argmax(dim=1) != y) & ~done
        first[fooled] = z[fooled]
        done |= fooled
    assert torch.equal(short.success, done)
    assert (short.x_adv[done] - first[done]).abs().max() < 1e-5


def test_restarts_are_never_worse(trained, digits):
    x, y = digits.test
    results = [PGD(eps=0.06, steps=3, restarts=n)(trained, x, y, generator=seeded()) for n in (1, 2, 4)]
    for fewer, more in pairwise(results):
        assert (more.success | ~fewer.success).all()
        same = more.success == fewer.success
        assert (more.loss[same] >= fewer.loss[same] - 1e-5).all()
    assert (results[2].loss > results[0].loss + 1e-4).any()


def test_generator_decides(trained, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    attack, state = PGD(eps=0.06, steps=2), torch.get_rng_state()
    one, same, other = (attack(trained, x, y, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.x_adv, same.x_adv)
    assert not torch.equal(one.x_adv, other.x_adv)
    assert torch.equal(attack(trained, x, y).x_adv, attack(trained, x, y).x_adv)
    assert torch.equal(torch.get_rng_state(), state)
    generator = seeded()
    assert not torch.equal(
        attack(trained, x, y, generator=generator).x_adv, attack(trained, x, y, generator=generator).x_adv
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_eps_zero_returns_the_input(trained, digits, attack, norm):
    x, y = digits.test
    result = attack(eps=0, norm=norm)(trained, x, y)
    assert torch.equal(result.x_adv, x)
    with torch.no_grad():
        assert torch.equal(result.success, trained(x).argmax(dim=1) != y)
    assert (result.gradients == 0).all()


@pytest.mark.parametrize(("norm", "eps"), CASES)
def test_batch_of_one_is_one_of_the_batch(trained, digits, norm, eps):
    attack = PGD(eps=eps, steps=4, norm=norm, random_start=False)
    x, y = digits.x_test[:6], digits.y_test[:6]
    together = attack(trained, x, y)
    for i in range(6):
        alone = attack(trained, x[i : i + 1], y[i : i + 1])
        assert (alone.x_adv[0] - together.x_adv[i]).abs().max() < 1e-4
        assert alone.success[0] == together.success[i]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_constant_model_has_zero_gradients(norm):
    x, y = torch.rand(4, 1, 3, 3, generator=seeded()), torch.tensor([0, 1, 0, 2])
    result = PGD(eps=0.1, steps=3, norm=norm)(lambda z: 0 * z.flatten(1)[:, :3], x, y)
    assert result.x_adv.isfinite().all()
    assert result.success.tolist() == [False, True, False, True]


def test_targeted(trained, digits):
    x, y = digits.test
    wanted = (y + 1) % 10
    small, large = (
        PGD(eps=eps, steps=20, targeted=True)(trained, x, wanted, generator=seeded()) for eps in (0.02, 0.3)
    )
    with torch.no_grad():
        assert torch.equal(trained(large.x_adv).argmax(dim=1) == wanted, large.success)
    assert small.success.float().mean() < 0.3
    assert large.success.float().mean() > 0.9


class TestNothingIsChanged:
    @pytest.mark.parametrize("early_stop", [False, True])
    def test_model_and_tensors(self, digits, trained, early_stop):
        x, y = digits.x_test[:10].clone(), digits.y_test[:10].clone()
        before_x, before_y = x.clone(), y.clone()
        frozen = trained.head.bias
        frozen.requires_grad_(False)
        trained.head.weight.grad = torch.ones_like(trained.head.weight)
        parameters = dict(trained.named_parameters())
        values = {name: value.clone() for name, value in trained.state_dict().items()}
        try:
            PGD(eps=0.1, steps=3, early_stop=early_stop)(trained, x, y)
            assert torch.equal(x, before_x)
            assert torch.equal(y, before_y)
            assert not x.requires_grad
            assert x.grad is None
            for name, parameter in trained.named_parameters():
                assert parameter is parameters[name]
                assert parameter.requires_grad == (parameter is not frozen)
                assert (parameter.grad is None) == (name != "head.weight")
            assert (trained.head.weight.grad == 1).all()
            assert all(torch.equal(value, values[name]) for name, value in trained.state_dict().items())
            assert not trained.training
        finally:
            frozen.requires_grad_(True)
            trained.head.weight.grad = None

    def test_parameters_return_after_an_exception(self):
        model = nn.Sequential(nn.Linear(4, 3))
        weight = model[0].weight

        def fail(module, args, output):
            raise RuntimeError("broken layer")

        model.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="broken layer"):
            PGD(eps=0.1)(model, torch.rand(2, 4), torch.tensor([0, 1]))
        assert model[0].weight is weight
        assert weight.requires_grad

    def test_mode_stays_and_dropout_is_warned_about(self):
        model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
        with pytest.warns(UserWarning, match="train mode with Dropout"):
            PGD(eps=0.1, steps=1)(model, torch.rand(2, 4), torch.tensor([0, 1]))
        assert model.training

    def test_gradient_mode_of_the_caller_does_not_matter(self, trained, digits):
        x, y = digits.x_test[:10], digits.y_test[:10]
        plain = PGD(eps=0.08, steps=3)(trained, x, y)
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                assert torch.equal(PGD(eps=0.08, steps=3)(trained, x.clone(), y).success, plain.success)


def good():
    return nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.full((2, 4), 1.5)}, "x runs from 1.5 to 1.5"),
        ({"x": torch.full((2, 4), -0.1)}, "x runs from -0.1"),
        ({"x": torch.full((2, 4), torch.nan)}, "x runs from nan"),
        ({"x": torch.zeros(2, 4, dtype=torch.uint8)}, "x has dtype torch.uint8"),
        ({"x": torch.zeros(0, 4), "y": torch.zeros(0, dtype=torch.int64)}, "must not be empty"),
        ({"y": torch.tensor([0, 3])}, "y has labels up to 3"),
        ({"y": torch.tensor([0, -1])}, "y has the label -1"),
        ({"y": torch.tensor([0.0, 1.0])}, "y has dtype torch.float32"),
        ({"y": torch.tensor([0, 1, 2])}, "y has dtype torch.int64 and shape"),
        ({"model": lambda z: z[:, 0]}, "logits of shape"),
        ({"model": lambda z: z / 0}, "not finite"),
    ],
)
def test_bad_input(changes, words):
    model, x, y = good()
    given = {"model": model, "x": x, "y": y} | changes
    with pytest.raises(ValueError, match=words):
        PGD(eps=0.1, steps=2)(given["model"], given["x"], given["y"])


def test_nan_on_the_way_is_no_success():
    """A model that breaks only away from the clean point must not count as fooled."""
    x, y = torch.full((3, 4), 0.5), torch.tensor([0, 0, 0])
    weight = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])

    def breaks(z):
        return (z @ weight.T + torch.tensor([5.0, 0, 0])) * torch.where(
            (z - 0.5).abs().amax() > 0.05, torch.nan, 1
        )

    for early_stop in (False, True):
        with pytest.raises(ValueError, match="not finite"):
            PGD(eps=0.1, steps=3, random_start=False, early_stop=early_stop)(breaks, x, y)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"eps": -0.1}, "eps=-0.1"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eps": "8/255"}, "eps='8/255'"),
        ({"eps": 0.1, "steps": 0}, "steps=0"),
        ({"eps": 0.1, "steps": 2.0}, "steps=2.0"),
        ({"eps": 0.1, "step_size": 0}, "step_size=0"),
        ({"eps": 0.1, "restarts": 0}, "restarts=0"),
        ({"eps": 0.1, "restarts": 2, "random_start": False}, "restarts=2"),
        ({"eps": 0.1, "norm": "l3"}, "norm='l3'"),
        ({"eps": 0.1, "loss": "hinge"}, "loss='hinge'"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        PGD(**arguments)
    with pytest.raises(TypeError):
        PGD(0.1)  # eps is keyword-only
