"""Spearman's correlation and the cosine of two batches of maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.similarity.checks import Maps, both_finite, flat_pair, where_defined
from faultlines.estimators.similarity.sorting import average_ranks


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
