"""Attack outcomes against attacks run one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.attacks import PGD, CarliniWagnerL2
from faultlines.studies.robustness_profiles import attack_outcomes


def line(weight):
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[weight], [-weight]])
    return nn.Sequential(nn.Flatten(), Shift(), model).eval()


class Shift(nn.Module):
    """Puts the decision boundary at a pixel of one half."""

    def forward(self, x):
        return x - 0.5


def pixels(*values):
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def test_rates_and_distances_of_a_threshold():
    # class 0 above one half; the second network has the classes the wrong way round
    networks, x = [line(1.0), line(-1.0)], pixels(0.55, 0.7, 0.9)
    y = torch.tensor([0, 0, 1])
    found = attack_outcomes(
        networks, x, y, {"pgd": PGD(eps=0.1, steps=5), "cw": CarliniWagnerL2(steps=300)}, seed=0
    )
    assert found.correct.tolist() == [[True, True, False], [False, False, True]]
    assert found.fooled["pgd"].tolist() == [[True, False, True], [True, True, False]]
    assert found.rate("pgd").tolist() == [0.5, 0.0]
    assert found.distance["cw"][0, :2].tolist() == pytest.approx([0.05, 0.2], abs=0.01)


def test_every_network_meets_the_same_random_starts():
    network, x, y = line(1.0), pixels(0.52, 0.6, 0.7), torch.zeros(3).long()
    attack = PGD(eps=0.3, steps=1, step_size=1e-3)
    found = attack_outcomes([network, network], x, y, {"pgd": attack}, seed=3)
    assert torch.equal(found.distance["pgd"][0], found.distance["pgd"][1])
    alone = attack(network, x, y, generator=torch.Generator().manual_seed(3))
    assert torch.equal(found.fooled["pgd"][1], alone.success)
    other = attack_outcomes([network], x, y, {"pgd": attack}, seed=4)
    assert not torch.equal(found.distance["pgd"][0], other.distance["pgd"][0])


def test_a_network_without_a_right_image_has_no_rate():
    found = attack_outcomes([line(1.0)], pixels(0.2), torch.tensor([0]), {"pgd": PGD(eps=0.1)}, seed=0)
    assert found.rate("pgd").isnan().all()


def test_no_network():
    with pytest.raises(ValueError, match="networks is empty"):
        attack_outcomes([], pixels(0.2), torch.tensor([0]), {}, seed=0)
