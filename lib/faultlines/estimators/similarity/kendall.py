r"""Kendall's tau-b of many pairs of maps at once, by sorting rows.

Sorted by $a$, and within ties by $b$, the discordant pairs are the inversions of the sequence of $b$. Both sorts
are of whole rows of int64 that carry the companion in their low half. Inversions are counted in runs that double in
length: inside short runs directly, and between two neighbouring runs as Mann and Whitney's U, the rank sum of
the left one, which again is a sort.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from faultlines.estimators.similarity.checks import Maps, both_finite, flat_pair, where_defined
from faultlines.estimators.similarity.sorting import order_codes, sort_rows_, tied_pairs

RUN = 64  # at most so many entries are compared directly
CHUNK = 2**18  # entries at a time: the int64 copies of more leave the cache


def kendall_tau(a: Maps, b: Maps) -> Float[Tensor, " batch"]:
    r"""Return $\tau_b = (C - D) / \sqrt{(n_0 - T_a)(n_0 - T_b)}$ of each pair of maps.

    $C$ and $D$ count the concordant and discordant of all $n_0$ pairs of pixels, $T_a$ and $T_b$ those tied in $a$
    and in $b$ (Kendall 1945; what `scipy.stats.kendalltau` returns). $O(n \log^2 n)$ a map; not differentiable.

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
    rows_a, rows_b = flat_pair(a, b, least=2)
    size = max(1, CHUNK // max(1, rows_a.shape[1]))
    parts = [_tau(*pair) for pair in zip(rows_a.split(size), rows_b.split(size), strict=True)]
    return where_defined(torch.cat(parts).to(a.dtype), both_finite(rows_a, rows_b))


def _tau(a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """Return tau-b in float64, NaN for constant rows."""
    n = a.shape[1]
    # int64 of a's code above and b's below, which sorts as unsigned and so gets its sign bit flipped
    pairs = torch.stack((order_codes(b).bitwise_xor_(-(2**31)), order_codes(a)), dim=-1)
    pairs = sort_rows_(pairs.view(torch.int64).squeeze(-1))
    halves = pairs.view(torch.int32).unflatten(1, (n, 2))
    same = halves[:, 1:] == halves[:, :-1]
    ties_a, ties_both = tied_pairs(same[..., 1]), tied_pairs(same[..., 0] & same[..., 1])
    # from here b above and the position below, in place: new memory of this size costs more than the arithmetic.
    # The top bit flips b's sign bit back
    ranked = sort_rows_(pairs.bitwise_left_shift_(32).bitwise_xor_(torch.arange(n, device=a.device) - 2**63))
    top = halves[..., 1]
    ties_b = tied_pairs(top[:, 1:] == top[:, :-1])
    order = ranked.to(
        torch.int16 if n < 2**13 else torch.int32
    )  # its low bits: the positions in the order of b
    discordant = inversions(order)
    everything = n * (n - 1) // 2
    difference = everything - ties_a - ties_b + ties_both - 2 * discordant
    spread = (everything - ties_a).double().sqrt() * (everything - ties_b).double().sqrt()
    return (difference / spread).clamp(-1, 1)


def inversions(order: Int[Tensor, "batch n"]) -> Int[Tensor, " batch"]:
    """Return how many pairs of each permutation stand in the wrong order.

    Args:
        order: Permutations of 0 to `n - 1`, in an integer type that holds `4 n`.

    Example:
        >>> inversions(torch.tensor([[0, 1, 2], [2, 0, 1], [2, 1, 0]]))
        tensor([0, 2, 3])
    """
    batch, n = order.shape
    levels = max(0, (n - 1) // RUN).bit_length()
    run = -(-n // 2**levels)
    if padding := run * 2**levels - n:  # larger than all and in order: no inversion more
        tail = torch.arange(n, n + padding, device=order.device, dtype=order.dtype)
        order = torch.cat([order, tail.expand(batch, -1)], dim=1)
    count = _inside(order.view(-1, run)).view(batch, -1).sum(dim=1)
    for _ in range(levels):
        count = count + _between(order.view(-1, 2 * run)).view(batch, -1).sum(dim=1)
        run *= 2
    return count


def _inside(runs: Int[Tensor, "run entry"]) -> Int[Tensor, " run"]:
    """Return the inversions of each run, by comparing every pair."""
    runs = runs.T.contiguous()  # a shift along the first axis stays contiguous
    smaller, here = torch.zeros_like(runs), torch.empty_like(runs)
    for shift in range(1, len(runs)):
        # into the integer type at once: twice as fast as by way of a bool
        smaller[:-shift] += torch.lt(runs[shift:], runs[:-shift], out=here[shift:])
    return smaller.sum(dim=0, dtype=runs.dtype)


def _between(runs: Int[Tensor, "run entry"]) -> Int[Tensor, " run"]:
    """Return the inversions between the left and the right half of each run."""
    half = runs.shape[1] // 2
    is_left = torch.zeros(2 * half, dtype=runs.dtype, device=runs.device)
    is_left[:half] = 1
    tagged = sort_rows_((2 * runs).add_(is_left)).bitwise_and_(1)
    # exact: sums below 2^24 in float32, below 2^53 in float64
    dtype = torch.float32 if half < 2**11 else torch.float64
    rank_sum = tagged.to(dtype) @ torch.arange(2 * half, device=runs.device, dtype=dtype)
    return rank_sum.long() - half * (half - 1) // 2
