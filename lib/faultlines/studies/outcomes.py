"""What several attacks do to several networks, image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from faultlines.attacks.results import AttackResult

Attack = Callable[..., AttackResult]


@dataclass(frozen=True)
class Outcomes:
    """Attacks on networks: rows are networks, columns images, all on the CPU.

    Attributes:
        correct: Whether a network is right on the clean image.
        fooled: By attack, whether it is wrong at the point found; also where it was wrong before.
        distance: By attack, the Euclidean length of the perturbation found.
    """

    correct: Bool[Tensor, "network image"]
    fooled: dict[str, Bool[Tensor, "network image"]]
    distance: dict[str, Float[Tensor, "network image"]]

    def rate(self, attack: str) -> Float[Tensor, " network"]:
        """Return each network's attack success rate: the share of its clean-correct images that are fooled.

        NaN for a network that has no image right.
        """
        return (self.correct & self.fooled[attack]).sum(1) / self.correct.sum(1).double()

    def median_distance(self, attack: str) -> Float[Tensor, " network"]:
        """Return each network's median perturbation over clean-correct images; infinite where too few are fooled.

        An image that the attack did not fool counts as one at infinite distance.
        """
        reached = self.distance[attack].double().where(self.fooled[attack], torch.inf)
        return torch.stack([row[right].median() for row, right in zip(reached, self.correct, strict=True)])


def attack_outcomes(
    networks: Sequence[nn.Module],
    x: Float[Tensor, "image channel height width"],
    y: Int64[Tensor, " image"],
    attacks: Mapping[str, Attack],
    *,
    seed: int,
) -> Outcomes:
    """Run every attack on every network.

    Each call gets a generator of the same seed, so that all networks meet the same random starts.

    Args:
        networks: Networks in evaluation mode.
        x: Images in [0, 1], on the networks' device.
        y: True classes.
        attacks: Attacks by name, called as `attack(network, x, y, generator=...)`.
        seed: Seed of the random starts.

    Raises:
        ValueError: If there is no network.

    Example:
        >>> from faultlines.attacks import FGSM
        >>> from faultlines.models import ViT
        >>> vit = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=1, heads=2).eval()
        >>> found = attack_outcomes([vit], torch.rand(5, 1, 4, 4), torch.arange(5) % 3, {"FGSM": FGSM(eps=0.1)}, seed=0)
        >>> found.fooled["FGSM"].shape, bool((found.distance["FGSM"] <= 0.4 + 1e-6).all())
        (torch.Size([1, 5]), True)
    """
    if not networks:
        raise ValueError("networks is empty; there is nothing to attack")
    with torch.no_grad():
        correct = torch.stack([network(x).argmax(dim=1) == y for network in networks])
    fooled, distance = {}, {}
    for name, attack in attacks.items():
        found = [
            attack(network, x, y, generator=torch.Generator(x.device).manual_seed(seed))
            for network in networks
        ]
        fooled[name] = torch.stack([result.success for result in found]).cpu()
        distance[name] = torch.stack([(result.x_adv - x).flatten(1).norm(dim=1) for result in found]).cpu()
    return Outcomes(correct.cpu(), fooled, distance)
