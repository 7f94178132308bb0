"""Spearman's correlation, cosine and common top pixels of two batches of maps."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Int
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
    value = _cosine(*(r - r.mean(dim=1, keepdim=True) for r in map(average_ranks, (rows_a, rows_b))))
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
