from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from faultlines.attacks import FAB
from faultlines.attacks.norms import as_norm


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_model_closed_form(norm, dual):
    """The nearest boundary of a linear model is at |margin| over the dual norm, where the box is far."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4).double()
    x = 0.45 + 0.1 * torch.rand(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    y = logits.argmax(dim=1)
    gaps = logits.gather(1, y[:, None]) - logits
    weights = (model.weight[y][:, None] - model.weight).norm(p=dual, dim=2)
    distance = torch.where(gaps > 0, gaps / weights, torch.inf).amin(dim=1)
    near = distance < 0.4
    assert near.sum() > 4
    result = FAB(eps=0.5, norm=norm, steps=60)(model, x, y)
    found = as_norm(norm).size(result.x_adv - x)
    assert (found[near] >= distance[near] * (1 - 1e-9)).all()
    assert (found[near] <= distance[near] * 1.01).all()
    cut_at = distance[near].median().item() * 1.001
    cut = FAB(eps=cut_at, norm=norm, steps=60)(model, x, y)
    assert (cut.success <= (distance <= cut_at)).all()
    assert torch.equal(cut.x_adv[~cut.success], x[~cut.success])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.3), ("l2", 2.0)])
def test_as_near_as_the_authors(cnn, digits, norm, eps):
    from pyautoattack.fab_pt import FABAttack_PT

    x, y = digits.x_test[:60], digits.y_test[:60]
    peer = FABAttack_PT(copy.deepcopy(cnn), norm=norm.capitalize(), n_iter=25, eps=eps, seed=0, device="cpu")
    peer.targeted, peer.n_target_classes = True, 2
    size = as_norm(norm).size
    ours = FAB(eps=eps, norm=norm, steps=25, target_classes=2)(cnn, x, y)
    right = cnn(x).argmax(dim=1) == y
    theirs = []
    for target in (2, 3):  # one at a time: together theirs stops at the first within eps
        peer.target_class = target
        with torch.no_grad():
            z = peer.attack_single_run(x, y, is_targeted=True)
            theirs.append(torch.where(cnn(z).argmax(dim=1) != y, size(z - x), torch.inf))
    theirs = torch.stack(theirs).amin(dim=0)
    assert ours.success[right].float().mean() >= theirs[right].le(eps).float().mean() - 0.01
    assert size(ours.x_adv - x)[right].median() <= 1.02 * theirs[right].median()


def test_restarts_are_never_farther(cnn, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    one, two = (FAB(eps=0.5, steps=6, restarts=n, target_classes=2)(cnn, x, y) for n in (1, 2))
    size = as_norm("linf").size
    assert (one.success <= two.success).all()
    both = one.success & two.success
    assert (size(two.x_adv - x)[both] <= size(one.x_adv - x)[both] + 1e-6).all()


def test_other_norms_are_refused():
    with pytest.raises(ValueError, match="norm="):
        FAB(eps=0.1, norm="l7")


def test_a_step_costs_one_gradient(cnn, digits):
    """Also where it is fooled and goes back."""
    x, y = digits.x_test[:20], digits.y_test[:20]
    result = FAB(eps=0.5, steps=6, target_classes=3)(cnn, x, y)
    with torch.no_grad():
        right = cnn(x).argmax(dim=1) == y
    assert result.success[right].all()  # so walks have been fooled on the way
    assert (result.gradients[right] == 18).all()
    assert (result.gradients[~right] == 0).all()
