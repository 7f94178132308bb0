from __future__ import annotations

import copy

import pytest
import torch

from faultlines.attacks import Square, square
from faultlines.attacks.square import two_bumps


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rescale", [False, True])
def test_schedule_and_shapes_are_the_authors(rescale):
    from pyautoattack.square import SquareAttack

    peer = SquareAttack(None, norm="L2", n_queries=3000, eps=0.1, resc_schedule=rescale, device="cpu")
    attack = Square(eps=0.1, queries=3000, rescale=rescale)
    assert all(attack.share(q) == peer.p_selection(q) for q in range(3000))
    for side in range(2, 12):
        theirs = peer.eta(side)
        ours = two_bumps(side).float()
        assert torch.allclose(theirs, ours, atol=1e-6) or torch.allclose(theirs, ours.T, atol=1e-6)


class Counted:
    def __init__(self, model):
        self.model, self.asked = model, 0

    def __call__(self, x):
        self.asked += len(x)
        return self.model(x)


def test_known_answers_are_not_asked_for(cnn, digits, monkeypatch):
    """Nothing but the number of forward passes depends on the memory."""
    x, y = digits.x_test[:30], digits.y_test[:30]
    with_memory, without = Counted(cnn), Counted(cnn)
    attack = Square(eps=0.05, queries=1500)
    first = attack(with_memory, x, y)
    monkeypatch.setattr(square, "MEMORY", 0)
    second = attack(without, x, y)
    assert torch.equal(first.success, second.success)
    assert (first.loss - second.loss).abs().max() < 1e-4
    assert (~first.success).any()
    assert with_memory.asked < 0.6 * without.asked


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.08), ("l2", 0.6)])
def test_agrees_with_the_authors(cnn, digits, norm, eps):
    from pyautoattack.square import SquareAttack

    x, y = digits.test
    peer = SquareAttack(
        copy.deepcopy(cnn), n_queries=400, norm=norm.capitalize(), eps=eps, resc_schedule=True, device="cpu"
    )
    ours, theirs = [], []
    for seed in range(2):
        peer.seed = seed
        z = peer.perturb(x, y)
        theirs.append((cnn(z).argmax(dim=1) == y).float().mean())
        attack = Square(eps=eps, norm=norm, queries=400, rescale=True)
        ours.append((~attack(cnn, x, y, generator=seeded(seed)).success).float().mean())
    ours, theirs = torch.stack(ours).mean(), torch.stack(theirs).mean()
    assert 0.1 < theirs < 0.9
    assert ours <= theirs + 0.02  # theirs never draws the last row and column


def test_colour_images_and_odd_sizes():
    x, y = torch.rand(3, 3, 7, 5, generator=seeded()), torch.tensor([0, 1, 2])

    def model(z):
        return z.mean(dim=(2, 3))

    for norm in ("linf", "l2"):
        result = Square(eps=0.1, norm=norm, queries=60)(model, x, y)
        assert result.x_adv.shape == x.shape
        assert (result.loss >= Square(eps=0.0, norm=norm)(model, x, y).loss).all()


def test_takes_images_only():
    with pytest.raises(ValueError, match="channel, height, width"):
        Square(eps=0.1)(lambda z: z, torch.rand(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="p_init=0"):
        Square(eps=0.1, p_init=0)
