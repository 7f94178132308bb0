from __future__ import annotations

import copy

import foolbox
import pytest
import torch
from torch import nn

from faultlines.attacks import FAB, CarliniWagnerL2


def test_linear_model_closed_form():
    torch.manual_seed(0)
    model = nn.Linear(6, 2).double()
    x = 0.4 + 0.2 * torch.rand(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the boundary among the samples
        model.bias[0] -= (model(x)[:, 0] - model(x)[:, 1]).mean()
    logits = model(x)
    y = logits.argmax(dim=1)
    gap = (logits[:, 0] - logits[:, 1]).abs()
    distance = gap / (model.weight[0] - model.weight[1]).norm()
    near = distance < 0.35  # the box is out of reach
    assert near.sum() >= 3
    result = CarliniWagnerL2(steps=300, step_size=0.003, search_steps=10)(model, x, y)
    found = (result.x_adv - x).norm(dim=1)
    assert result.success[near].all()
    assert (found[near] >= distance[near]).all()
    assert (found[near] <= 1.02 * distance[near] + 1e-3).all()


def test_as_near_as_foolbox(trained, digits):
    x, y = digits.x_test[:32], digits.y_test[:32]
    peer = foolbox.attacks.L2CarliniWagnerAttack(steps=150, binary_search_steps=5, initial_const=0.01)
    peer_model = foolbox.PyTorchModel(copy.deepcopy(trained), bounds=(0, 1))
    z, _, fooled = peer(peer_model, x, y, epsilons=None)
    theirs = (z - x).flatten(1).norm(dim=1)
    result = CarliniWagnerL2(steps=150, search_steps=5, initial_c=0.01)(trained, x, y)
    ours = (result.x_adv - x).flatten(1).norm(dim=1)
    assert fooled.float().mean() > 0.9
    assert result.success.sum() >= fooled.sum()
    assert ours.median() <= 1.05 * theirs.median()


def test_confidence_and_target(trained, digits):
    x, y = digits.x_test[:8], digits.y_test[:8]
    plain, sure = (
        CarliniWagnerL2(steps=100, search_steps=4, initial_c=0.1, confidence=k)(trained, x, y)
        for k in (0.0, 2.0)
    )
    assert (sure.loss[sure.success] >= 2).all()
    assert sure.success.any()
    both = plain.success & sure.success
    size = lambda result: (result.x_adv - x).flatten(1).norm(dim=1)  # noqa: E731
    assert size(sure)[both].mean() > size(plain)[both].mean()
    wanted = (y + 3) % 10
    aimed = CarliniWagnerL2(steps=150, search_steps=4, initial_c=1.0, targeted=True)(trained, x, wanted)
    with torch.no_grad():
        assert torch.equal(trained(aimed.x_adv).argmax(dim=1) == wanted, aimed.success)
    assert aimed.success.float().mean() > 0.7


def test_samples_do_not_depend_on_each_other(trained, digits):
    x, y = digits.x_test[:5], digits.y_test[:5]
    attack = CarliniWagnerL2(steps=40, search_steps=3, initial_c=0.1)
    together = attack(trained, x, y)
    for i in range(5):
        alone = attack(trained, x[i : i + 1], y[i : i + 1])
        assert alone.success[0] == together.success[i]
        assert (alone.x_adv[0] - together.x_adv[i]).abs().max() < 1e-2


def test_saturated_pixels(cnn, digits):
    """Of binarised images every pixel begins at the edge of tanh, where it moves unseen at first."""
    x, y = (digits.x_test[:6] > 0.5).float(), digits.y_test[:6]
    far = FAB(eps=100.0, norm="l2", steps=50)(cnn, x, y)
    near = CarliniWagnerL2(steps=500, step_size=0.03, search_steps=4, initial_c=0.1)(cnn, x, y)
    assert far.success.all()
    assert near.success.all()
    ours, theirs = ((found.x_adv - x).flatten(1).norm(dim=1) for found in (near, far))
    assert ours.median() <= 1.1 * theirs.median()


def test_too_few_steps_for_saturated_pixels(cnn, digits):
    x, y = (digits.x_test[:8] > 0.5).float(), digits.y_test[:8]
    with pytest.warns(UserWarning, match=r"steps \* step_size = 2 cannot move off the edge"):
        CarliniWagnerL2(steps=100, step_size=0.02, search_steps=3, initial_c=0.1)(cnn, x, y)


def test_half_precision(cnn, digits):
    x, y = digits.x_test[:8], digits.y_test[:8]
    attack = CarliniWagnerL2(steps=150, step_size=0.05, search_steps=4, initial_c=0.1)
    single, half = attack(cnn, x, y), attack(copy.deepcopy(cnn).half(), x.half(), y)
    assert half.x_adv.dtype == torch.float16
    assert half.success.sum() >= single.success.sum() - 1 > 0


def test_arguments():
    for arguments, words in (
        ({"steps": 0}, "steps=0"),
        ({"initial_c": 0}, "initial_c=0"),
        ({"confidence": -1.0}, "confidence=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            CarliniWagnerL2(**arguments)
