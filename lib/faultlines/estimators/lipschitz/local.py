r"""Sampled lower bounds of local Lipschitz constants, of a function and layer by layer at equal radius and budget.

The constant is $\sup_{\lVert\xi\rVert \le r} \lVert f(x+\xi) - f(x)\rVert / \lVert\xi\rVert$.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.forward import check_steady, in_any_mode, original, outputs, warn_of_nan
from faultlines.models.recorder import record


@dataclass(frozen=True)
class LocalLipschitz:
    """Two lower bounds of the same supremum, `[batch]` each.

    Attributes:
        random: The largest ratio over random directions.
        ascent: The largest ratio met by gradient ascent from the best random direction; at least `random`.
        perturbation: Where `ascent` was attained, in the shape of the input.
    """

    random: Float[Tensor, " batch"]
    ascent: Float[Tensor, " batch"]
    perturbation: Float[Tensor, "batch ..."]


@in_any_mode
def local_lipschitz(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch ..."],
    radius: float,
    *,
    directions: int = 16,
    ascent_steps: int = 20,
    norm: Literal["l2", "linf"] = "l2",
    generator: torch.Generator | None = None,
) -> LocalLipschitz:
    r"""Search the ball of `radius` around each sample for the steepest chord of `f`.

    Random directions are tried at full radius (`l2`: uniform on the sphere; `linf`: corners of the cube).
    From the best of them, projected gradient ascent on the logarithm of the ratio takes normalised steps
    (`l2`: along the gradient; `linf`: its sign) of a length that falls linearly from a quarter of the radius.
    Perturbations stay longer than a hundredth of the radius: below it the chord is rounding, and its limit is
    what `jacobian_norm` computes. The ball is not cut to an image range.

    Args:
        f: Maps a batch to a batch, sample by sample.
        x: Centres of the balls.
        radius: Radius in `norm`, positive.
        directions: Number of random directions, at least 1.
        ascent_steps: Gradient steps, 0 for none.
        norm: Norm of the perturbation; the output difference is always measured in the Euclidean norm.
        generator: Source of the random directions; seeded with 0 by default.

    Returns:
        Both lower bounds of each sample; NaN where a chord was.

    Raises:
        ValueError: If an argument is out of range, or `f` does not map a batch to a batch of its size.

    Example:
        >>> import torch
        >>> w = torch.diag(torch.tensor([1.0, 3.0]))
        >>> found = local_lipschitz(lambda x: x @ w, torch.zeros(1, 2), 0.5, ascent_steps=50)
        >>> bool(found.random <= found.ascent), round(found.ascent.item(), 2)
        (True, 3.0)
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius={radius} must be positive and finite")
    if directions < 1:
        raise ValueError(f"directions={directions} must be at least 1")
    if ascent_steps < 0:
        raise ValueError(f"ascent_steps={ascent_steps} must be at least 0")
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm={norm!r} is not one of 'l2', 'linf'")
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x has shape {tuple(x.shape)} and dtype {x.dtype}; floating [batch, ...] is needed")
    if generator is None:
        generator = torch.Generator(x.device).manual_seed(0)
    check_steady(f)
    x = x.detach()
    with torch.no_grad():
        origin = outputs(f, x)
    if origin.ndim < 1 or len(origin) != len(x):
        raise ValueError(
            f"f returned shape {tuple(origin.shape)} for a batch of {len(x)}; [batch, ...] is needed"
        )

    def ratio(xi: Tensor) -> Tensor:
        """Return chord slopes, `[batch]`."""
        return (outputs(f, x + xi) - origin)[..., None].flatten(1).norm(dim=1) / _length(xi, norm)

    best, where = x.new_full((len(x),), -1.0), torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(directions):
            xi = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            xi = _rescale(xi.sign() if norm == "linf" else xi, radius, norm)
            best, where = _keep_better(best, where, ratio(xi), xi)
    random = best
    xi = where
    for step in range(ascent_steps):
        xi = xi.detach().requires_grad_()
        with torch.enable_grad():  # the caller may have turned it off
            value = ratio(xi)
            logarithm = value.clamp_min(torch.finfo(x.dtype).tiny).log().sum()
        (gradient,) = torch.autograd.grad(logarithm, xi)
        warn_of_nan(gradient)
        with torch.no_grad():
            best, where = _keep_better(best, where, value, xi)
            stride = 0.25 * radius * (1 - step / ascent_steps)
            xi = _clip(
                xi + stride * (gradient.sign() if norm == "linf" else _rescale(gradient, 1.0, norm)),
                radius,
                norm,
            )
    with torch.no_grad():
        best, where = _keep_better(best, where, ratio(xi), xi)
    return LocalLipschitz(random, best, where)


def _keep_better(best: Tensor, where: Tensor, value: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    better = (value > best) | value.isnan()  # a search that met nan knows nothing
    return torch.where(better, value, best).detach(), torch.where(_column(better, xi), xi, where).detach()


def _length(xi: Tensor, norm: str) -> Float[Tensor, " batch"]:
    flat = xi.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


def _rescale(xi: Tensor, length: float, norm: str) -> Tensor:
    return xi * _column(length / _length(xi, norm).clamp_min(torch.finfo(xi.dtype).tiny), xi)


def _clip(xi: Tensor, radius: float, norm: str) -> Tensor:
    """Project onto the ball, and away from its centre."""
    if norm == "linf":
        xi = xi.clamp(-radius, radius)
    length = _length(xi, norm).clamp_min(torch.finfo(xi.dtype).tiny)
    return xi * _column(length.clamp(0.01 * radius, radius) / length, xi)


def _column(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


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
        ValueError: If a reading is unknown or not to be had of the model, or an argument is out of range; see
            `local_lipschitz`.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=2).eval()
        >>> found = layer_lipschitz(model, torch.rand(3, 1, 4, 4), 0.1, directions=2, ascent_steps=2)
        >>> {name: tuple(bounds.ascent.shape) for name, bounds in found.items()}
        {'map': (3, 2), 'block': (3, 2), 'logits': (3,)}
    """
    if unknown := [name for name in readings if name not in READINGS]:
        raise ValueError(f"readings={tuple(readings)!r}: {unknown[0]!r} is not one of {READINGS}")

    check_steady(model)
    model = original(model)
    if set(readings) != {"logits"} and not (hasattr(model, "tokens") and hasattr(model, "blocks")):
        raise ValueError(
            f"readings={tuple(readings)!r} need a model with tokens and blocks, as ViT has; "
            f"{type(model).__name__} is none, and 'logits' can be read of any"
        )

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
        layers = [search(layer, reading) for layer in range(len(cast(nn.ModuleList, model.blocks)))]
        found[reading] = LayerBounds(
            torch.stack([one.random for one in layers], dim=1),
            torch.stack([one.ascent for one in layers], dim=1),
        )
    return found


def read_layer(model: Any, x: Tensor, layer: int, reading: str) -> Float[Tensor, "batch ..."]:
    """Return one reading of `layer_lipschitz`; the network runs no further than it must."""
    if reading == "logits":
        return outputs(model, x)
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
