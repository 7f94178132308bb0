"""Sorted rows, ranks and ties, for many rows at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt32
from torch import Tensor


def sort_rows_(x: Float[Tensor, "batch n"] | Int[Tensor, "batch n"]) -> Tensor:
    """Sort every row of `x` upwards in place, and return it.

    On a CPU numpy does it, whose sort is vectorised: 20x faster than torch's.
    """
    if x.device.type == "cpu":
        np.ndarray.sort(x.numpy(), axis=-1)
        return x
    return x.copy_(x.sort(dim=-1).values)


def average_ranks(x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return ranks from 1 upwards in float64; ties share the mean of theirs.

    Example:
        >>> average_ranks(torch.tensor([[0.5, 0.1, 0.5, 0.9]]))
        tensor([[2.5000, 1.0000, 2.5000, 4.0000]], dtype=torch.float64)
    """
    x = x.detach().contiguous()
    ascending = sort_rows_(x.clone())
    below, up_to = (torch.searchsorted(ascending, x, right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2


def order_codes(x: Float[Tensor, "batch n"]) -> UInt32[np.ndarray, "batch n"]:
    """Return numbers in the same order within each row, ties included.

    Args:
        x: float32 or float64, on the CPU.
    """
    x = x.detach()
    if x.dtype == torch.float64:
        x = x.contiguous() + 0.0  # -0 becomes 0
        return torch.searchsorted(sort_rows_(x.clone()), x, out_int32=True).numpy().view(np.uint32)
    bits = (x.numpy() + np.float32(0)).view(np.int32)
    # the bits of a positive float are in order, and go above by their top bit; those of a negative one reversed
    bits ^= (bits >> 31) | np.int32(-(2**31))
    return bits.view(np.uint32)


def tied_pairs(same: Bool[np.ndarray, "batch gap"]) -> Int[np.ndarray, " batch"]:
    """Return how many pairs of each row are tied, from which sorted entries equal their predecessor, `[batch, n - 1]`.

    Example:
        >>> tied_pairs(np.array([[True, True, False, True]]))
        array([4])
    """
    batch, gaps = same.shape
    # False on both sides, so that ties begin and end in their row
    guarded = np.zeros((batch, gaps + 2), dtype=bool)
    guarded[:, 1:-1] = same
    flat = guarded.ravel()
    begin, end = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
    more = end - begin  # entries that follow the first of their value
    return np.bincount(begin // (gaps + 2), more * (more + 1) // 2, minlength=batch).astype(np.int64)
