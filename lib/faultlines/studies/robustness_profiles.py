"""What attacks do to several networks, and how steep these and their attention are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from faultlines.attacks.results import AttackResult
from faultlines.estimators.attention_statistics import map_statistics
from faultlines.estimators.lipschitz.attention import attention_bound
from faultlines.estimators.lipschitz.jacobian import jacobian_norm, logit_jacobian_norm
from faultlines.estimators.margins import margin_radius
from faultlines.models.attention import Attention
from faultlines.models.inference import predictions
from faultlines.models.recorder import LayerRecord, record

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
        correct = torch.stack([predictions(network(x)) == y for network in networks])
    fooled, distance = {}, {}
    for name, attack in attacks.items():
        found = [
            attack(network, x, y, generator=torch.Generator(x.device).manual_seed(seed))
            for network in networks
        ]
        fooled[name] = torch.stack([result.success for result in found]).cpu()
        distance[name] = torch.stack([(result.x_adv - x).flatten(1).norm(dim=1) for result in found]).cpu()
    return Outcomes(correct.cpu(), fooled, distance)


def survives(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    y: Int64[Tensor, " batch"],
    attacks: Sequence[Attack],
    *,
    generator: torch.Generator,
) -> Bool[Tensor, " batch"]:
    """Return which samples are classified rightly, clean and under every one of several attacks.

    Each attack is run only on what survived those before it.

    Args:
        model: Network in evaluation mode.
        x: Images in [0, 1].
        y: True classes.
        attacks: Attacks, called as `attack(model, x, y, generator=...)`.
        generator: Source of their random starts.
    """
    with torch.no_grad():
        robust = predictions(model(x)) == y
    for attack in attacks:
        left = robust.nonzero().squeeze(-1)
        if len(left):
            robust[left] = ~attack(model, x[left], y[left], generator=generator).success
    return robust


def accuracy_profile(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    y: Int64[Tensor, " batch"],
    attacks: Mapping[str, Sequence[Attack]],
    *,
    seed: int,
) -> dict[str, float]:
    """Return `clean` accuracy and, by name, robust accuracy under each group of attacks.

    Every network that is called with one seed meets the same random starts.

    Args:
        model: Network in evaluation mode.
        x: Images in [0, 1].
        y: True classes.
        attacks: Groups of attacks by name; a sample counts where it survives the whole group.
        seed: Seed of the random starts.
    """
    profile = {"clean": survives(model, x, y, [], generator=torch.Generator()).double().mean().item()}
    for name, group in attacks.items():
        generator = torch.Generator(x.device).manual_seed(seed)
        profile[name] = survives(model, x, y, group, generator=generator).double().mean().item()
    return profile


def attention_records(model: nn.Module, x: Tensor) -> list[tuple[Attention, LayerRecord]]:
    """Return every attention layer of a network with what it computed on `x`, without a graph.

    Raises:
        ValueError: If the layers that ran are not the network's attention layers, each once and in order.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    with torch.no_grad(), record() as tape:
        model(x)
    if len(layers) != len(tape.layers):
        raise ValueError(f"the network has {len(layers)} attention layers, but {len(tape.layers)} ran")
    return list(zip(layers, tape.layers, strict=True))


def steepness_profile(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    *,
    attention_samples: int = 32,
    tol: float = 1e-2,
) -> dict[str, float]:
    r"""Return local Lipschitz numbers of a network and its attention, each one number.

    `network`: median over samples of the exact $\lVert \partial\,\mathrm{logits} / \partial x \rVert_2$;
    `radius`: median of the margin over $\sqrt2$ times that norm, which no scale of the logits changes.
    Over layers and the first `attention_samples` samples, geometric means of `attention` (the layer's true local
    norm at its own input), `theorem3` and `centred` (its bounds); arithmetic means over maps of `max_g1`
    (largest $g_1$ of a row), `peak` (largest entry of a row), `entropy` (in nats) and `map_norm`
    ($\lVert P \rVert_2$).

    Args:
        model: Network in evaluation mode, softmax attention without a query bias.
        x: Images in [0, 1].
        attention_samples: Samples for the attention layers' numbers, which cost most.
        tol: Relative accuracy of the true local norms.
    """
    layers = attention_records(model, x[:attention_samples])
    norms, theorem3, centred = [], [], []
    for layer, seen in layers:
        norms.append(jacobian_norm(layer, seen.inputs, tol=tol))
        theorem3.append(attention_bound(layer, seen.inputs))
        centred.append(attention_bound(layer, seen.inputs, variant="centred"))
    maps = [map_statistics(seen.maps) for _, seen in layers]

    def geometric(values: list[Tensor]) -> float:
        return torch.cat(values).double().log().mean().exp().item()

    def mean(name: str) -> float:
        return torch.stack([getattr(statistics, name).mean() for statistics in maps]).mean().item()

    network = logit_jacobian_norm(model, x)
    with torch.no_grad():
        radius = margin_radius(model(x), network)
    return {
        "network": network.median().item(),
        "radius": radius.median().item(),
        "attention": geometric(norms),
        "theorem3": geometric(theorem3),
        "centred": geometric(centred),
        "max_g1": mean("max_steepness"),
        "peak": mean("peak"),
        "entropy": mean("entropy"),
        "map_norm": mean("norm"),
    }
