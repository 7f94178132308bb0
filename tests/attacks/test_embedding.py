from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.attacks import EmbeddingAttack, SquarePatch
from faultlines.attacks.norms import as_norm


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def towers():
    """An image tower and prompts that it answers rightly, since they are what it says of the images."""
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 8)).eval()
    x = torch.rand(10, 1, 6, 6, generator=seeded())
    with torch.no_grad():
        prompts = 3 * tower(x)
    return tower, prompts, x, torch.arange(10)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.25), ("l2", 1.2)])
def test_lowers_the_cosine_inside_the_ball(towers, norm, eps):
    tower, prompts, x, y = towers
    result = EmbeddingAttack(prompts, eps=eps, norm=norm)(tower, x, y)
    with torch.no_grad():
        cosines = F.normalize(tower(result.x_adv), dim=1) @ F.normalize(prompts, dim=1).T
    own = cosines.gather(1, y[:, None])[:, 0]
    assert torch.allclose(-result.loss, own, atol=1e-5)
    assert torch.equal(result.success, cosines.argmax(dim=1) != y)
    assert (own < 1 - 1e-3).all()  # they began at 1
    assert result.success.any()
    assert (as_norm(norm).size(result.x_adv - x) <= eps + 1e-6).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1


def test_linear_tower_against_a_fine_search():
    """Two pixels: the lowest cosine of a square by trying all of its points."""
    prompts, x = torch.tensor([[1.0, 0.2]]), torch.tensor([[0.6, 0.3]])
    result = EmbeddingAttack(prompts, eps=0.1, threshold=0.5, steps=50)(lambda z: z, x, torch.tensor([0]))
    side = torch.linspace(-0.1, 0.1, 201)
    grid = x + torch.cartesian_prod(side, side)
    lowest = F.cosine_similarity(grid, prompts).min()
    assert -result.loss.item() == pytest.approx(lowest.item(), abs=1e-5)
    assert not result.success


def test_threshold(towers):
    tower, prompts, x, y = towers
    result = EmbeddingAttack(prompts[:1], eps=0.1, threshold=0.9)(tower, x[:1], y[:1])
    assert result.success.item() == (-result.loss.item() < 0.9)


def test_patch(towers):
    tower, prompts, x, y = towers
    attack = EmbeddingAttack(prompts, eps=1.0, patch=SquarePatch(3, (1, 2)), step_size=0.1)
    result = attack(tower, x, y)
    outside = torch.ones(6, 6, dtype=torch.bool)
    outside[1:4, 2:5] = False
    assert torch.equal(result.x_adv[..., outside], x[..., outside])
    assert result.success.any()


def test_bad_input(towers):
    tower, prompts, x, y = towers
    for given, options, words in (
        (prompts[:1], {}, "one prompt"),
        (prompts[0], {}, "prompts has dtype"),
        (prompts, {"threshold": 2.0}, "threshold=2.0"),
        (prompts, {"eps": -0.1}, "eps=-0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            EmbeddingAttack(given, **{"eps": 0.1, **options})
    with pytest.raises(ValueError, match=r"there are 4 prompts"):
        EmbeddingAttack(prompts[:4], eps=0.1)(tower, x, y)
    with pytest.raises(ValueError, match="embeddings of shape"):
        EmbeddingAttack(prompts[:, :5], eps=0.1)(tower, x, y)
