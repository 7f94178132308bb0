"""Local Lipschitz constants layer by layer, at equal radius and budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.lipschitz.local import LocalLipschitz, local_lipschitz
from faultlines.models.recorder import record

READINGS = ("map", "attention", "block", "logits")


class LayerBounds(NamedTuple):
    """Two lower bounds of each local Lipschitz constant, `[batch, layer]`; `[batch]` for logits.

    Attributes:
        random: From random directions.
        ascent: From gradient ascent; at least `random`.
    """

    random: Float[Tensor, "batch *layer"]
    ascent: Float[Tensor, "batch *layer"]


def layer_lipschitz(
    model: nn.Module,
    x: Float[Tensor, "batch channel height width"],
    radius: float,
    *,
    readings: Sequence[str] = ("map", "block", "logits"),
    directions: int = 16,
    ascent_steps: int = 20,
    norm: Literal["l2", "linf"] = "l2",
    seed: int = 0,
) -> dict[str, LayerBounds]:
    r"""Search, for every layer and reading, the ball around each image for the steepest chord.

    All readings are functions of the **image**; each search has the same radius, number of directions, steps and
    random directions, so that layers and models may be compared. The readings of a layer are

    - `map`: its attention map (the combined one of differential attention) in the Frobenius norm, root mean
      square over maps, so that mechanisms with different numbers of maps compare;
    - `attention`: the output of its attention layer, before it is added to the residual stream;
    - `block`: the output of the whole block;

    and `logits`, the network's output. They need not rank two networks alike: normalised and scaled outputs do
    not grow with the map.

    Args:
        model: A network with `tokens` and `blocks`, as `ViT` has; in evaluation mode.
        x: Images.
        radius: Radius of the ball in `norm`, positive.
        readings: Some of `READINGS`.
        directions: Random directions a search, at least 1.
        ascent_steps: Gradient steps a search.
        norm: Norm of the perturbation.
        seed: Seed of the directions, the same for every search.

    Returns:
        Lower bounds by reading.

    Raises:
        ValueError: If a reading is unknown, or an argument is out of range; see `local_lipschitz`.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=2).eval()
        >>> found = layer_lipschitz(model, torch.rand(3, 1, 4, 4), 0.1, directions=2, ascent_steps=2)
        >>> {name: tuple(bounds.ascent.shape) for name, bounds in found.items()}
        {'map': (3, 2), 'block': (3, 2), 'logits': (3,)}
    """
    if unknown := [name for name in readings if name not in READINGS]:
        raise ValueError(f"readings={tuple(readings)!r}: {unknown[0]!r} is not one of {READINGS}")

    def search(layer: int, reading: str) -> LocalLipschitz:
        """Return the bounds of one reading."""
        return local_lipschitz(
            lambda z: read_layer(model, z, layer, reading),
            x,
            radius,
            directions=directions,
            ascent_steps=ascent_steps,
            norm=norm,
            generator=torch.Generator(x.device).manual_seed(seed),
        )

    found = {}
    for reading in readings:
        if reading == "logits":
            one = search(-1, reading)
            found[reading] = LayerBounds(one.random, one.ascent)
            continue
        layers = [search(layer, reading) for layer in range(len(model.blocks))]
        found[reading] = LayerBounds(
            torch.stack([one.random for one in layers], dim=1),
            torch.stack([one.ascent for one in layers], dim=1),
        )
    return found


def read_layer(model: nn.Module, x: Tensor, layer: int, reading: str) -> Float[Tensor, "batch ..."]:
    """Return one reading of `layer_lipschitz`; the network runs no further than it must."""
    if reading == "logits":
        return model(x)
    tokens = model.tokens(x)
    for block in model.blocks[:layer]:
        tokens = block(tokens)
    block = model.blocks[layer]
    if reading == "block":
        return block(tokens)
    if reading == "attention":
        return block.attention(block.norm1(tokens))
    with record() as tape:
        block.attention(block.norm1(tokens))
    (maps,) = tape.maps
    return maps / math.sqrt(maps.shape[1])
