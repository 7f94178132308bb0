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

from faultlines.estimators.similarity import (
    CHUNK,
    average_ranks,
    both_finite,
    top_membership,
    topk_intersection,
    where_defined,
)
from faultlines.models.pixel_normalization import check_tensor

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

    A coin flip gives 0.5. An influence of exactly 0 after the perturbation counts as changed. Samples tied for the
    last places among the most influential share them.

    Args:
        before: Influences on the clean training set.
        after: Influences on the perturbed one, samples in the same order.
        share: Share of training samples that count as most influential; at least one always does.
        mode: `"per_test"` picks them for each test sample, `"aggregated"` picks them once, by the sum over
            test samples, and compares the signs of the sums.
        rank_by: Size of the influence, or its value.

    Returns:
        `[n_test]` for `per_test`, a scalar for `aggregated`; NaN where an influence is not finite.

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
    # a few tests at a time: several copies of all pairs would not stay in the cache
    tests = max(1, CHUNK // len(before))
    rate = torch.cat(
        [
            _rates(a.T, b.T, count, rank_by)
            for a, b in zip(before.split(tests, 1), after.split(tests, 1), strict=True)
        ]
    )
    return rate[0] if mode == "aggregated" else rate


def _rates(a: Float[Tensor, "t n"], b: Float[Tensor, "t n"], count: int, rank_by: str) -> Float[Tensor, " t"]:
    member = top_membership(a.abs() if rank_by == "absolute" else a, count).to(a.dtype)
    return where_defined((member * (a.sign() != b.sign())).sum(dim=1) / count, both_finite(a, b))


def rank_correlation(before: Influence, after: Influence) -> Float[Tensor, " t"]:
    """Return Spearman's correlation of the two rankings of training samples, for each test sample.

    Returns:
        `[n_test]` in float64; as of every rank correlation here, NaN where one side is constant or not finite.

    Raises:
        ValueError: If shapes disagree.
    """
    _check(before, after, 1.0)
    a, b = (average_ranks(x.T).T.contiguous() for x in (before, after))
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    return where_defined((a * b).sum(dim=0) / (a.norm(dim=0) * b.norm(dim=0)), both_finite(before.T, after.T))


def top_overlap(before: Influence, after: Influence, *, share: float = 0.1) -> Float[Tensor, " t"]:
    """Return the share of the most influential samples, by size, that stay among the most influential.

    Samples tied for the last places share them; see `topk_intersection`.

    Returns:
        `[n_test]`; NaN where an influence is not finite.

    Raises:
        ValueError: If shapes disagree or `share` is out of range.
    """
    count = _check(before, after, share)
    return topk_intersection(before.abs().T, after.abs().T, count)


def most_influential(influence: Influence, share: float = 0.1) -> Int64[Tensor, " s"]:
    """Return the training samples of largest mean absolute influence over the test samples, largest first.

    Of equals, the first in the order of the samples.

    Raises:
        ValueError: If `share` is out of range, or an influence is not finite: there is no order then.
    """
    count = _check(influence, influence, share)
    if bad := int((~influence.isfinite()).sum()):
        raise ValueError(
            f"influence holds {bad} values that are not finite; samples cannot be ordered by them"
        )
    return influence.abs().mean(dim=1).argsort(descending=True, stable=True)[:count]


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


def _check(before: Tensor, after: Tensor, share: float) -> int:
    check_tensor(before, "before")
    check_tensor(after, "after")
    if before.ndim != 2 or before.shape != after.shape:
        raise ValueError(
            f"before and after have shapes {tuple(before.shape)} and {tuple(after.shape)}; "
            "both must be [n_train, n_test]"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} must lie in (0, 1]")
    return max(1, round(share * len(before)))
