"""How alike two batches of maps are: Spearman's and Kendall's correlation, cosine, common top pixels.

Kendall's tau-b counts, for many pairs of maps at once, by sorting rows. Sorted by $a$, and within ties by $b$, the
discordant pairs are the inversions of the sequence of $b$. Both sorts are of whole rows of 64 bits that carry the
companion in their low half. Inversions are counted in runs that double in length: inside short runs directly, and
between two neighbouring runs as Mann and Whitney's U, the rank sum of the left one, which again is a sort. All of it is
numpy on one core, whose sorts are vectorised and whose calls cost little, so that few maps at a time, which stay in the
cache, are work enough for one. A second thread gains nothing: it waits for the interpreter between calls.
"""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt32, UInt64
from torch import Tensor

from faultlines.models.pixel_normalization import check_tensor

Maps = Float[Tensor, "batch ..."]


def flat_pair(a: Maps, b: Maps, least: int = 1) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Return both batches with one row a map.

    Raises:
        ValueError: If shapes, dtypes or devices differ, they are not floating, or a map has fewer than `least`
            entries.
    """
    check_tensor(a, "a")
    check_tensor(b, "b")
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
    if x.dtype in (torch.bfloat16, torch.float16):  # numpy has no bfloat16; float32 holds both exactly
        x = x.float()
    ascending = sort_rows_(x.clone())
    below, up_to = (torch.searchsorted(ascending, x, right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2


def spearman(a: Maps, b: Maps) -> Float[Tensor, " batch"]:
    r"""Return Spearman's $\rho$ of each pair of maps: the correlation of their ranks, ties sharing the mean of theirs.

    It is what `scipy.stats.spearmanr` returns; not differentiable.

    Args:
        a: Maps, with at least two entries each.
        b: Maps of the same shape.

    Returns:
        One value a pair, in [-1, 1] and the dtype of the maps; NaN where a map is constant, and so without ranks, or
        has an entry that is not finite.

    Raises:
        ValueError: If shapes, dtypes or devices differ, or a map has one entry only.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), torch.tensor([[1.0, 4.0, 9.0], [1.0, 2.0, 3.0]]))
        tensor([1., nan])
    """
    rows_a, rows_b = flat_pair(a, b, least=2)
    pairs = max(1, CHUNK // rows_a.shape[1])  # at a time: ranks are in float64
    parts = zip(rows_a.split(pairs), rows_b.split(pairs), strict=True)
    value = torch.cat(
        [_cosine(*(r - r.mean(dim=1, keepdim=True) for r in map(average_ranks, part))) for part in parts]
    )
    return where_defined(value.to(a.dtype), both_finite(rows_a, rows_b))


def cosine(a: Maps, b: Maps, *, centre: bool = False) -> Float[Tensor, " batch"]:
    r"""Return $\langle a, b \rangle / (\lVert a \rVert \lVert b \rVert)$ of each pair of maps, computed in float64.

    Of two nearly constant maps it is near 1 whatever their pattern; `centre` takes each map's mean off first, which
    makes it Pearson's correlation.

    Args:
        a: Maps.
        b: Maps of the same shape.
        centre: Whether to subtract the means.

    Returns:
        One value a pair, in [-1, 1] and the dtype of the maps; NaN where a map is zero (centred: constant), and so
        without direction, or has an entry that is not finite.

    Raises:
        ValueError: If shapes, dtypes or devices differ.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [1.0, 0.0]])
        >>> cosine(a, b)
        tensor([0.9600,    nan])
    """
    rows_a, rows_b = flat_pair(a, b)
    defined = both_finite(rows_a, rows_b)
    if centre:  # rounding leaves a constant map's centred entries next to 0 and not at it
        defined = defined & (rows_a != rows_a[:, :1]).any(dim=1) & (rows_b != rows_b[:, :1]).any(dim=1)
    rows = (r.double() for r in (rows_a, rows_b))
    value = _cosine(*(r - r.mean(dim=1, keepdim=True) if centre else r for r in rows))
    return where_defined(value.to(a.dtype), defined)


def _cosine(a: Float[Tensor, "batch n"], b: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """Return the cosine of rows in float64; 0/0 = NaN for a zero row. Scaled first: squares do not underflow."""
    a, b = (r / r.abs().amax(dim=1, keepdim=True) for r in (a, b))
    return ((a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1)


def topk_intersection(a: Maps, b: Maps, k: int) -> Float[Tensor, " batch"]:
    r"""Return $|\mathrm{top}_k(a) \cap \mathrm{top}_k(b)| / k$ of each pair of maps (Ghorbani et al. 2019).

    Pixels tied with the $k$-th largest value share the places that are left: each belongs to the top to an equal part
    $m \in (0, 1]$, and the intersection is $\sum_i \min(m_i^a, m_i^b)$. Without such ties that is the number of common
    pixels; a map meets itself with 1; a constant map meets a map without ties with $k / n$, which is chance.

    Args:
        a: Maps; signed ones count from the largest value down.
        b: Maps of the same shape.
        k: Number of top pixels, 1 to the number of entries.

    Returns:
        One share a pair, in the dtype of the maps; NaN where an entry is not finite.

    Raises:
        ValueError: If `k` is out of range, or shapes, dtypes or devices differ.

    Example:
        >>> a = torch.tensor([[9.0, 8.0, 1.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
        >>> topk_intersection(a, torch.tensor([[9.0, 0.0, 8.0, 1.0], [4.0, 3.0, 2.0, 1.0]]), k=2)
        tensor([0.5000, 0.5000])
    """
    rows_a, rows_b = flat_pair(a, b)
    n = rows_a.shape[1]
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= n:
        raise ValueError(f"k={k!r} must be an integer from 1 to {n}, the entries of a map")
    common = torch.minimum(top_membership(rows_a, k), top_membership(rows_b, k)).sum(dim=1)
    share = (common / k).clamp(0, 1).to(a.dtype)
    return where_defined(share, both_finite(rows_a, rows_b))


def top_membership(rows: Float[Tensor, "batch n"], k: int) -> Float[Tensor, "batch n"]:
    """Return in float64 to which part each entry belongs to the top; the parts of a row sum to `k`."""
    rows = rows.detach()
    last = rows.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above, at = (rows > last).double(), (rows == last).double()  # a half type does not count to 300
    return above + at * (k - above.sum(dim=1, keepdim=True)) / at.sum(dim=1, keepdim=True)


# Kendall's tau, by sorting

FINITE = np.uint32(0x00800000), np.uint32(0xFF7FFFFF)  # the codes of the least and the largest finite float32
RUN = 64  # at most so many entries are compared directly; fewer than 128, as counts are int8
CHUNK = 2**17  # entries at a time, which stay in the cache


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
