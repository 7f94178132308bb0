"""Checks of two batches of maps, before they are compared."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

Maps = Float[Tensor, "batch ..."]


def flat_pair(a: Maps, b: Maps, least: int = 1) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Return both batches with one row a map.

    Raises:
        ValueError: If shapes, dtypes or devices differ, they are not floating, or a map has fewer than `least`
            entries.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"a and b have shapes {tuple(a.shape)} and {tuple(b.shape)}; both must be [batch, ...], the same"
        )
    if a.dtype != b.dtype or not a.is_floating_point():
        raise ValueError(f"a and b have dtypes {a.dtype} and {b.dtype}; both must be floating, the same")
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}; they must be on one device")
    if (entries := math.prod(a.shape[1:])) < least:
        raise ValueError(f"a and b have {entries} entries a map; at least {least} are needed")
    return a.flatten(1), b.flatten(1)


def both_finite(a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"]) -> Tensor:
    """Return which pairs have finite entries only, `[batch]`."""
    ends = torch.stack(
        [end(dim=1) for rows in (a, b) for end in (rows.amax, rows.amin)]
    )  # NaN passes through
    return ends.isfinite().all(dim=0)


def where_defined(value: Float[Tensor, " batch"], defined: Tensor) -> Float[Tensor, " batch"]:
    """Return the values, and NaN where they are not defined."""
    return torch.where(defined, value, torch.nan)
