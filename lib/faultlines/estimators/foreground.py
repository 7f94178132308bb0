"""Explanations against the known foreground: how much of a map is on it, and how concentrated the map is.

Maps may be coarser than masks. An empty map, one that is zero everywhere, tells nothing about places and counts as
the even map does: its energy and its pointing are the foreground's share of the image, its sparsity is 0. Only its
coverage, 0, tells the two apart; report it beside the others.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.forward import check_steady, outputs
from faultlines.models.attention import at_least_float
from faultlines.models.pixel_normalization import check_tensor
from faultlines.models.recorder import record

Maps = Float[Tensor, "n rows columns"]


Masks = Bool[Tensor, "n height width"]


PerMap = Float[Tensor, " n"]


def foreground_energy(maps: Maps, mask: Masks) -> PerMap:
    """Return the share of each map's mass on the foreground (Wang et al. 2020), differentiable in the maps.

    A cell of a coarse map lies on the foreground with the share of its pixels that do.

    Raises:
        ValueError: If shapes do not fit, or a map is negative or not finite somewhere.
    """
    _check(maps, mask)
    dtype, maps = maps.dtype, at_least_float(maps)
    mass = maps.sum(dim=(1, 2))
    empty = mass == 0
    energy = (maps * _cells(mask, maps)).sum(dim=(1, 2)) / torch.where(empty, torch.ones_like(mass), mass)
    return torch.where(empty, mask.to(maps.dtype).mean(dim=(1, 2)), energy).to(dtype)


def attention_focus(model: nn.Module, x: Float[Tensor, "n channel height width"], mask: Masks) -> PerMap:
    """Return the share of the class token's attention to patches that lies on the foreground, in the last layer.

    The absolute values of the layer's maps (of the difference, where maps are subtracted) are summed over maps.
    A map that knows nothing of places has the foreground's share of the image.

    Args:
        model: A network with a class token before a square grid of patches, in evaluation mode.
        x: Images.
        mask: True where the foreground is.

    Raises:
        ValueError: If the model is in training mode with layers for which that matters, no map is recorded or its
            patches do not form a square, or shapes do not fit.
    """
    check_steady(model)
    with torch.no_grad(), record() as tape:
        outputs(model, check_tensor(x, "x"))
    if not tape.layers:
        raise ValueError("model records no attention layer")
    row = tape.maps[-1][:, :, 0, 1:].abs().sum(dim=1)
    side = math.isqrt(row.shape[1])
    if side**2 != row.shape[1]:
        raise ValueError(f"{row.shape[1]} patches are no square grid after a class token")
    return foreground_energy(row.unflatten(1, (side, side)), mask)


def map_coverage(maps: Maps, threshold: float = 0.1) -> PerMap:
    """Return the share of cells above `threshold` times the map's peak; 0 for an empty map.

    Raises:
        ValueError: If the threshold is not in [0, 1), or a map is negative or not finite somewhere.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold={threshold!r} must lie in [0, 1)")
    _check(maps)
    return (maps > threshold * maps.amax(dim=(1, 2), keepdim=True)).to(maps.dtype).mean(dim=(1, 2))


def hoyer_sparsity(maps: Maps) -> PerMap:
    r"""Return $(\sqrt n - \lVert M\rVert_1 / \lVert M\rVert_2) / (\sqrt n - 1)$, 0 for an even map, 1 for one cell.

    From Hoyer (2004). The cosine of a map and a constant one is $\lVert M\rVert_1 / (\sqrt n \lVert M\rVert_2)$:
    a penalty on it is a reward for sparsity. An empty map has 0, and so has a map of one cell.

    Raises:
        ValueError: If a map is negative or not finite somewhere.

    Example:
        >>> hoyer_sparsity(torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 7.0], [0.0, 0.0]]]))
        tensor([0., 1.])
    """
    _check(maps)
    root = maps[0].numel() ** 0.5
    flat = maps.flatten(1)
    peak = flat.amax(dim=1, keepdim=True)
    flat = flat / torch.where(peak == 0, torch.ones_like(peak), peak)  # squares of tiny maps would underflow
    length = flat.norm(dim=1)
    even = torch.where(length == 0, torch.full_like(length, root), flat.sum(dim=1) / length.clamp_min(0.5))
    return ((root - even) / max(root - 1, torch.finfo(maps.dtype).eps)).clamp(0, 1)


def _cells(mask: Tensor, maps: Tensor) -> Float[Tensor, "n rows columns"]:
    """Return the foreground's share of every cell."""
    return F.adaptive_avg_pool2d(mask[:, None].to(maps.dtype), (maps.shape[1], maps.shape[2]))[:, 0]


def _check(maps: Tensor, mask: Tensor | None = None) -> None:
    check_tensor(maps, "maps")
    if maps.ndim != 3 or not maps.is_floating_point() or 0 in maps.shape:
        raise ValueError(
            f"maps has shape {tuple(maps.shape)} and dtype {maps.dtype}; [n, rows, columns] and floating point"
        )
    if not bool(torch.isfinite(maps).all()) or bool((maps < 0).any()):
        raise ValueError("maps holds values that are negative or not finite; take the positive part first")
    if mask is None:
        return
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool or mask.ndim != 3 or len(mask) != len(maps):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; bool and [{len(maps)}, height, width]"
        )
    if mask.shape[1] < maps.shape[1] or mask.shape[2] < maps.shape[2]:
        raise ValueError(f"mask is {tuple(mask.shape[1:])}, coarser than the maps' {tuple(maps.shape[1:])}")
