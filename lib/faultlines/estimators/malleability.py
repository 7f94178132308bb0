r"""How influences change when the training set is perturbed: flip rates, rank correlation, top sets.

Influences are `[n_train, n_test]`. The paper's Definition 3.4 is known second-hand only: the share of the most
influential training samples whose influence changes sign. Whether "most influential" is asked per test sample
or over all of them, in absolute value or not, is not said there, so both are arguments.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Influence = Float[Tensor, "n t"]


def flip_rate(
    before: Influence,
    after: Influence,
    *,
    share: float = 0.1,
    mode: Literal["per_test", "aggregated"] = "per_test",
    rank_by: Literal["absolute", "signed"] = "absolute",
) -> Tensor:
    """Return the share of the most influential training samples whose influence changes sign.

    A coin flip gives 0.5. An influence of exactly 0 after the perturbation counts as changed.

    Args:
        before: Influences on the clean training set.
        after: Influences on the perturbed one, samples in the same order.
        share: Share of training samples that count as most influential; at least one always does.
        mode: `"per_test"` picks them for each test sample, `"aggregated"` picks them once, by the sum over
            test samples, and compares the signs of the sums.
        rank_by: Size of the influence, or its value.

    Returns:
        `[n_test]` for `per_test`, a scalar for `aggregated`.

    Raises:
        ValueError: If shapes disagree or an argument is not as stated.

    Example:
        >>> before = torch.tensor([[3.0, 1.0], [-2.0, 2.0]])
        >>> after = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]])
        >>> flip_rate(before, after, share=0.5)
        tensor([1., 0.])
    """
    count = _check(before, after, share)
    if mode not in ("per_test", "aggregated"):
        raise ValueError(f"mode={mode!r} is not one of 'per_test', 'aggregated'")
    if rank_by not in ("absolute", "signed"):
        raise ValueError(f"rank_by={rank_by!r} is not one of 'absolute', 'signed'")
    if mode == "aggregated":
        before, after = before.sum(dim=1, keepdim=True), after.sum(dim=1, keepdim=True)
    size = before.abs() if rank_by == "absolute" else before
    top = size.topk(count, dim=0).indices
    flipped = (before.gather(0, top).sign() != after.gather(0, top).sign()).to(before.dtype).mean(dim=0)
    return flipped[0] if mode == "aggregated" else flipped


def rank_correlation(before: Influence, after: Influence) -> Float[Tensor, " t"]:
    """Return Spearman's correlation of the two rankings of training samples, for each test sample.

    Raises:
        ValueError: If shapes disagree, or a column is constant.
    """
    _check(before, after, 1.0)
    a, b = (_ranks(x) for x in (before, after))
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    spread = a.norm(dim=0) * b.norm(dim=0)
    if (spread == 0).any():
        raise ValueError(
            f"{int((spread == 0).sum())} test samples have constant influences; a rank needs a difference"
        )
    return (a * b).sum(dim=0) / spread


def top_overlap(before: Influence, after: Influence, *, share: float = 0.1) -> Float[Tensor, " t"]:
    """Return the share of the most influential samples, by size, that stay among the most influential.

    Raises:
        ValueError: If shapes disagree or `share` is out of range.
    """
    count = _check(before, after, share)
    tops = [torch.zeros_like(x).scatter_(0, x.abs().topk(count, dim=0).indices, 1) for x in (before, after)]
    return (tops[0] * tops[1]).sum(dim=0) / count


def most_influential(influence: Influence, share: float = 0.1) -> Int64[Tensor, " s"]:
    """Return the training samples of largest mean absolute influence over the test samples, largest first.

    Raises:
        ValueError: If `share` is out of range.
    """
    count = _check(influence, influence, share)
    return influence.abs().mean(dim=1).topk(count).indices


def curated(n: int, index: Int64[Tensor, " s"]) -> Int64[Tensor, " r"]:
    """Return which of `n` training samples stay when those at `index` are removed, in order.

    The paper's three interventions are this one, *transformed* (those at `index` are replaced by perturbed
    versions) and *adversarial* (all are): see `faultlines.attacks.training_data`.

    Example:
        >>> curated(4, torch.tensor([2]))
        tensor([0, 1, 3])
    """
    keep = torch.ones(n, dtype=torch.bool)
    keep[index] = False
    return keep.nonzero().flatten()


def _ranks(x: Tensor) -> Tensor:
    """Return ranks along the first axis; ties share the mean of theirs."""
    columns = []
    for column in x.T:
        _, inverse, counts = torch.unique(column, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        columns.append((last - (counts - 1) / 2)[inverse])
    return torch.stack(columns, dim=1)


def _check(before: Tensor, after: Tensor, share: float) -> int:
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(
            f"before and after have shapes {tuple(before.shape)} and {tuple(after.shape)}; "
            "both must be [n_train, n_test]"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} must lie in (0, 1]")
    return max(1, round(share * len(before)))
