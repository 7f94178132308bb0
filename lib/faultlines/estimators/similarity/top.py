"""The share of top pixels that two maps have in common, with ties shared out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.similarity.checks import Maps, both_finite, flat_pair, where_defined


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
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
        raise ValueError(f"k={k!r} must be an integer from 1 to {n}, the entries of a map")
    common = torch.minimum(_membership(rows_a, k), _membership(rows_b, k)).sum(dim=1)
    share = (common / k).clamp(0, 1).to(a.dtype)
    return where_defined(share, both_finite(rows_a, rows_b))


def _membership(rows: Float[Tensor, "batch n"], k: int) -> Float[Tensor, "batch n"]:
    """Return in float64 to which part each entry belongs to the top; the parts of a row sum to `k`."""
    rows = rows.detach()
    last = rows.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above, at = (rows > last).double(), (rows == last).double()  # a half type does not count to 300
    return above + at * (k - above.sum(dim=1, keepdim=True)) / at.sum(dim=1, keepdim=True)
