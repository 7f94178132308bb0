"""What holds for every attack on predictions: ball and box, reproducibility, edges, and that nothing is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from faultlines.attacks import (
    APGD,
    FAB,
    MIM,
    AutoAttack,
    CarliniWagnerL2,
    PatchAttack,
    Square,
)
from faultlines.attacks.norms import as_norm

BOUNDED = {
    "mim": lambda eps, norm, **kw: MIM(eps=eps, norm=norm, steps=4, step_size=max(eps, 0.01) / 2),
    "apgd-ce": lambda eps, norm, **kw: APGD(eps=eps, norm=norm, steps=6, **kw),
    "apgd-dlr": lambda eps, norm, **kw: APGD(eps=eps, norm=norm, steps=6, loss="dlr", **kw),
    "apgd-t": lambda eps, norm, **kw: APGD(
        eps=eps, norm=norm, steps=6, loss="targeted_dlr", target_classes=3, **kw
    ),
    "fab": lambda eps, norm, **kw: FAB(eps=eps, norm=norm, steps=6, target_classes=3, **kw),
    "square": lambda eps, norm, **kw: Square(eps=eps, norm=norm, queries=40, **kw),
    "auto": lambda eps, norm, **kw: AutoAttack(
        eps=eps, norm=norm, steps=5, queries=20, target_classes=2, batch_size=7
    ),
}
DRAWING = ["apgd-ce", "apgd-dlr", "apgd-t", "square", "auto"]
RESTARTING = ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "square"]
NORMS = [("linf", 0.06), ("l2", 0.4)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def every(norm, eps):
    """Return all attacks, also those without a ball."""
    return {
        **{name: make(eps, norm) for name, make in BOUNDED.items()},
        "carlini-wagner": CarliniWagnerL2(steps=10, step_size=0.5, search_steps=2, initial_c=10.0),
        "patch": PatchAttack(size=3, steps=3),
    }


NAMES = list(every("linf", 0.1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_stays_inside_and_says_what_is_so(cnn, digits, name, norm, eps):
    x, y = digits.x_test[:40], digits.y_test[:40]
    result = every(norm, eps)[name](cnn, x, y, generator=seeded())
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    if name in BOUNDED:
        assert (as_norm(norm).size(result.x_adv - x) <= eps + 1e-6).all()
    with torch.no_grad():
        assert torch.equal(cnn(result.x_adv).argmax(dim=1) != y, result.success)
        wrong = cnn(x).argmax(dim=1) != y
    assert result.success[wrong].all()
    assert result.success.sum() > wrong.sum()


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_zero_returns_the_input(cnn, digits, name, norm):
    x, y = digits.test
    result = BOUNDED[name](0.0, norm)(cnn, x, y, generator=seeded())
    assert torch.equal(result.x_adv, x)
    with torch.no_grad():
        assert torch.equal(result.success, cnn(x).argmax(dim=1) != y)


@pytest.mark.parametrize("name", BOUNDED)
def test_eps_one_is_the_whole_box(cnn, digits, name):
    x, y = digits.x_test[:20], digits.y_test[:20]
    result = BOUNDED[name](1.0, "linf")(cnn, x, y, generator=seeded())
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert result.success.float().mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_batch_of_one(cnn, digits, name):
    for i in (0, 1):
        x, y = digits.x_test[i : i + 1], digits.y_test[i : i + 1]
        result = every("linf", 0.1)[name](cnn, x, y, generator=seeded())
        assert result.x_adv.shape == x.shape
        with torch.no_grad():
            assert (cnn(result.x_adv).argmax(dim=1) != y) == result.success


@pytest.mark.parametrize("name", NAMES)
def test_all_misclassified_already(cnn, digits, name):
    x = digits.x_test[:8]
    with torch.no_grad():
        y = (cnn(x).argmax(dim=1) + 1) % 10
    result = every("linf", 0.1)[name](cnn, x, y, generator=seeded())
    assert result.success.all()
    if name in ("fab", "carlini-wagner", "square", "auto", "apgd-t"):
        assert torch.equal(result.x_adv, x) or name == "apgd-t"


@pytest.mark.parametrize("scale", [0.0, 1e-30])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_constant_model_and_vanishing_gradients(name, norm, eps, scale):
    x, y = torch.rand(4, 1, 6, 6, generator=seeded()), torch.tensor([0, 1, 0, 2])
    offset = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    result = every(norm, eps)[name](
        lambda z: offset + scale * z.flatten(1)[:, :5].tanh(), x, y, generator=seeded()
    )
    assert result.x_adv.isfinite().all()
    assert result.loss.isfinite().all()
    assert result.success.tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", DRAWING)
def test_generator_decides(cnn, digits, name):
    x, y = digits.x_test[:25], digits.y_test[:25]
    attack, state = BOUNDED[name](0.04, "linf"), torch.get_rng_state()
    one, same, other = (attack(cnn, x, y, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.x_adv, same.x_adv)
    assert not torch.equal(one.x_adv, other.x_adv)
    assert torch.equal(attack(cnn, x, y).x_adv, attack(cnn, x, y).x_adv)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RESTARTING)
def test_restarts_are_never_worse(cnn, digits, name):
    x, y = digits.x_test[:40], digits.y_test[:40]
    fewer, more = (BOUNDED[name](0.05, "linf", restarts=n)(cnn, x, y, generator=seeded()) for n in (1, 3))
    if name == "apgd-t":  # draws for a later target come after more draws for an earlier one
        assert more.success.sum() >= fewer.success.sum()
    else:
        assert (more.success | ~fewer.success).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed(cnn, digits, name):
    model = copy.deepcopy(cnn)
    x, y = digits.x_test[:10].clone(), digits.y_test[:10].clone()
    kept = x.clone(), y.clone()
    parameters = dict(model.named_parameters())
    values = copy.deepcopy(model.state_dict())
    model[0].weight.requires_grad_(False)
    every("linf", 0.1)[name](model, x, y, generator=seeded())
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert not x.requires_grad
    for key, parameter in model.named_parameters():
        assert parameter is parameters[key]
        assert parameter.grad is None
        assert parameter.requires_grad == (key != "0.weight")
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(cnn, digits, name):
    x, y = digits.x_test[:4], digits.y_test[:4]
    attack = every("linf", 0.1)[name]
    for model, images, labels, words in (
        (cnn, 255 * x, y, r"pixels must lie in \[0, 1\]"),
        (cnn, x, y - 10, "labels start at 0"),
        (cnn, x, y + 10, "labels up to"),
        (lambda z: cnn(z) / 0, x, y, "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            attack(model, images, labels)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_warned_about(cnn, digits, name):
    x, y = digits.x_test[:4], digits.y_test[:4]
    model = nn.Sequential(nn.Dropout(0.1), copy.deepcopy(cnn)).train()
    with pytest.warns(UserWarning, match=r"train mode with Dropout.*model\.eval\(\)"):
        every("linf", 0.1)[name](model, x, y, generator=seeded())
    assert model.training
