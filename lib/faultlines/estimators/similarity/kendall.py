"""Kendall's tau-b of many pairs of maps at once, by sorting rows.

Sorted by $a$, and within ties by $b$, the discordant pairs are the inversions of the sequence of $b$. Both sorts
are of whole rows of 64 bits that carry the companion in their low half. Inversions are counted in runs that double in
length: inside short runs directly, and between two neighbouring runs as Mann and Whitney's U, the rank sum of
the left one, which again is a sort. All of it is numpy on one core, whose sorts are vectorised and whose calls cost
little, so that few maps at a time, which stay in the cache, are work enough for one. A second thread gains nothing:
it waits for the interpreter between calls.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt32, UInt64
from torch import Tensor

from faultlines.estimators.similarity.correlation import Maps, flat_pair, sort_rows_

FINITE = np.uint32(0x00800000), np.uint32(0xFF7FFFFF)  # the codes of the least and the largest finite float32


def order_codes(x: Float[Tensor, "batch n"]) -> UInt32[np.ndarray, "batch n"]:
    """Return numbers in the same order within each row, ties included; outside FINITE where `x` is not finite.

    Args:
        x: float32 or float64, on the CPU.
    """
    x = x.detach()
    if x.dtype == torch.float64:
        x = x.contiguous() + 0.0  # -0 becomes 0
        ranks = torch.searchsorted(sort_rows_(x.clone()), x, out_int32=True).numpy().view(np.uint32)
        return np.where(x.isfinite().numpy(), ranks + FINITE[0], np.uint32(2**32 - 1))
    bits = (x.numpy() + np.float32(0)).view(np.int32)
    # the bits of a positive float are in order, and go above by their top bit; those of a negative one reversed
    codes = bits >> 31
    codes |= np.int32(-(2**31))
    codes ^= bits
    return codes.view(np.uint32)


def tied_pairs(same: Bool[np.ndarray, " gap"], n: int) -> Int[np.ndarray, " batch"]:
    """Return how many pairs of each row are tied.

    Args:
        same: Which sorted entries equal their predecessor, row after row without a break, `[batch * n - 1]`; what
            it says of the first entry of a row is not looked at.
        n: Entries a row.

    Example:
        >>> tied_pairs(np.array([True, True, True, False, True]), 3)
        array([3, 1])
    """
    batch = (len(same) + 1) // n
    if not same.any():
        return np.zeros(batch, dtype=np.int64)
    # False on both sides of every row, so that ties begin and end in it
    guarded = np.zeros(batch * n + 1, dtype=bool)
    guarded[1:-1] = same
    guarded[::n] = False
    begin, end = np.flatnonzero(guarded[1:] != guarded[:-1]).reshape(-1, 2).T
    more = end - begin  # entries that follow the first of their value
    return np.bincount(begin // n, more * (more + 1) // 2, minlength=batch).astype(np.int64)


RUN = 64  # at most so many entries are compared directly; fewer than 128, as counts are int8


CHUNK = 2**17  # entries at a time, which stay in the cache


def kendall_tau(a: Maps, b: Maps) -> Float[Tensor, " batch"]:
    r"""Return $\tau_b = (C - D) / \sqrt{(n_0 - T_a)(n_0 - T_b)}$ of each pair of maps.

    $C$ and $D$ count the concordant and discordant of all $n_0$ pairs of pixels, $T_a$ and $T_b$ those tied in $a$
    and in $b$ (Kendall 1945; what `scipy.stats.kendalltau` returns). $O(n \log^2 n)$ a map; not differentiable.
    Computed on the CPU, wherever the maps are.

    Args:
        a: Maps, with at least two entries each.
        b: Maps of the same shape.

    Returns:
        One value a pair, in [-1, 1] and the dtype of the maps; NaN where a map is constant, and so without ranks,
        or has an entry that is not finite.

    Raises:
        ValueError: If shapes, dtypes or devices differ, or a map has one entry only.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
        >>> b = torch.tensor([[1.0, 2.0, 4.0, 3.0], [5.0, 5.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
        >>> kendall_tau(a, b)
        tensor([0.6667, 1.0000,    nan])
    """
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32  # numpy has no bfloat16
    rows = [x.detach().to("cpu", wide).contiguous() for x in flat_pair(a, b, least=2)]
    chunks = [x.split(max(1, CHUNK // x.shape[1])) for x in rows]
    return torch.from_numpy(np.concatenate(list(map(_tau, *chunks)))).to(a)


def _tau(a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"]) -> Float[np.ndarray, " batch"]:
    """Return tau-b in float64, NaN for rows that are constant or not finite."""
    n = a.shape[1]
    everything = n * (n - 1) // 2
    pairs = order_codes(a).astype(np.uint64)  # a's code above and b's below
    pairs <<= np.uint64(32)
    pairs |= order_codes(b)
    pairs.sort(axis=-1)
    finite = ends_finite(pairs)
    step = steps(pairs)
    ties_a = tied_pairs(step < 2**32, n)
    ties_both = tied_pairs(step == 0, n) if ties_a.any() else ties_a
    # from here b above and the position below, in place: new memory of this size costs more than the arithmetic
    pairs <<= np.uint64(32)
    pairs |= np.arange(n, dtype=np.uint64)
    pairs.sort(axis=-1)
    finite &= ends_finite(pairs)
    ties_b = tied_pairs(steps(pairs, out=step) < 2**32, n)
    order = pairs.astype(np.int16 if n < 2**13 else np.int32)
    difference = everything - ties_a - ties_b + ties_both - 2 * inversions(order)
    spread = np.sqrt(everything - ties_a) * np.sqrt(everything - ties_b) * finite
    return np.divide(difference, spread, out=np.full(len(a), np.nan), where=spread > 0).clip(-1, 1)


def ends_finite(ascending: UInt64[np.ndarray, "batch n"]) -> Bool[np.ndarray, " batch"]:
    """Return of which sorted rows all codes above are of finite numbers, which the first and the last tell."""
    least, most = ascending[:, 0] >> np.uint64(32), ascending[:, -1] >> np.uint64(32)
    return (least >= FINITE[0]) & (most <= FINITE[1])


def steps(
    ascending: UInt64[np.ndarray, "batch n"], out: np.ndarray | None = None
) -> UInt64[np.ndarray, " gap"]:
    """Return in which bits entries differ from their predecessor, row after row without a break, `[batch * n - 1]`."""
    flat = ascending.reshape(-1)  # row by row the loop would take longer than its work
    return np.bitwise_xor(flat[1:], flat[:-1], out=out)


def inversions(order: Int[np.ndarray, "batch n"]) -> Int[np.ndarray, " batch"]:
    """Return how many pairs of each permutation stand in the wrong order.

    Args:
        order: Permutations of 0 to `n - 1`, in an integer type that holds `4 n`.

    Example:
        >>> inversions(np.array([[0, 1, 2], [2, 0, 1], [2, 1, 0]]))
        array([0, 2, 3])
    """
    batch, n = order.shape
    levels = max(0, (n - 1) // RUN).bit_length()
    run = -(-n // 2**levels)
    if padding := run * 2**levels - n:  # larger than all and in order: no inversion more
        tail = np.arange(n, n + padding, dtype=order.dtype)
        order = np.concatenate([order, np.broadcast_to(tail, (batch, padding))], axis=1)
    count = _inside(order.reshape(-1, run)).reshape(batch, 2**levels).sum(axis=1, dtype=np.int64)
    for level in range(1, levels):
        count += _between(order.reshape(-1, 2 * run)).reshape(batch, 2 ** (levels - level)).sum(axis=1)
        run *= 2
    if levels:  # at last both halves are all of 0 to n - 1, each its own rank
        count += order[:, :run].sum(axis=1, dtype=np.int64) - run * (run - 1) // 2
    return count


def _inside(runs: Int[np.ndarray, "run entry"]) -> Int[np.ndarray, " run"]:
    """Return the inversions of each run, by comparing every pair."""
    runs = np.ascontiguousarray(runs.T)  # a shift along the first axis stays contiguous
    smaller, here = np.zeros(runs.shape, np.int8), np.empty(runs.shape, bool)
    as_int8 = here.view(np.int8)
    for shift in range(1, len(runs)):
        np.less(runs[shift:], runs[:-shift], out=here[shift:])
        counts = smaller[shift:]
        np.add(counts, as_int8[shift:], out=counts)
    return smaller.sum(axis=0, dtype=np.int16)


def _between(runs: Int[np.ndarray, "run entry"]) -> Int[np.ndarray, " run"]:
    """Return the inversions between the left and the right half of each run."""
    half = runs.shape[1] // 2
    tagged = 2 * runs
    tagged[:, :half] += 1
    tagged.sort(axis=-1)
    tagged &= 1
    # exact: sums below 2^24 in float32, below 2^53 in float64
    dtype = np.float32 if half < 2**11 else np.float64
    rank_sum = tagged.astype(dtype) @ np.arange(2 * half, dtype=dtype)
    return rank_sum.astype(np.int64) - half * (half - 1) // 2
