"""Maps of one scale, image by image, with a value and a gradient of zero where there is no map."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Normalization = Literal["none", "minmax", "l1", "l2"]

EPS = 1e-8  # a map of smaller size is no map


def normalize_map(
    maps: Float[Tensor, "batch height width"], kind: Normalization = "none", *, eps: float = EPS
) -> Float[Tensor, "batch height width"]:
    """Bring every map to one scale.

    `"minmax"` takes the least entry to 0 and the largest to 1; `"l1"` and `"l2"` divide by the norm. A map
    whose range, or norm, is at most `eps` becomes zero, and so does its gradient: dividing by a vanishing
    norm would give NaN, or a gradient as large as one over it.

    Raises:
        ValueError: If the kind is unknown, or the maps are not a batch of them.

    Example:
        >>> normalize_map(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]), "minmax").tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    if kind not in get_args(Normalization):
        raise ValueError(f"normalize={kind!r} is not one of {get_args(Normalization)}")
    if maps.ndim != 3:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; they must be [batch, height, width]")
    if kind == "none":
        return maps
    if kind == "minmax":
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        size = maps.amax(dim=(1, 2), keepdim=True)
    else:
        alive = (maps != 0).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
        safe = torch.where(alive, maps, 1.0)  # a norm has no gradient at zero: it is not asked for one there
        size = torch.linalg.vector_norm(safe, ord=int(kind[1]), dim=(1, 2), keepdim=True) * alive
    there = size > eps
    return torch.where(there, maps / torch.where(there, size, 1.0), 0.0)
