"""How often an attack succeeds on the samples it had to change, and the accuracy it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from faultlines.reporting.intervals import Interval, wilson_interval


@dataclass(frozen=True)
class AttackSuccess:
    """What an attack did to one model, or to the same model trained from several seeds.

    The rate alone does not compare models of different clean accuracy: its denominator is the samples that each
    one had right. Robust accuracy has the same denominator for all, which is why it stands beside it.

    Attributes:
        rate: Attack success rate: the share of clean-correct samples that were fooled.
        robust_accuracy: The share of all samples right both clean and under attack.
        clean_accuracy: The share of all samples right before the attack.
        rate_by_seed: The rate of each seed.
        robust_by_seed: The robust accuracy of each seed.
    """

    rate: Interval
    robust_accuracy: Interval
    clean_accuracy: Interval
    rate_by_seed: tuple[float, ...]
    robust_by_seed: tuple[float, ...]


def attack_success(
    clean_correct: Bool[ArrayLike, "*seeds n"],
    fooled: Bool[ArrayLike, "*seeds n"],
    confidence: float = 0.95,
) -> AttackSuccess:
    """Return attack success rate, robust and clean accuracy with Wilson intervals.

    Seeds are pooled: their counts add up. A Wilson interval takes every trial for independent, which the same image
    under several seeds is not, so the pooled one says how well these networks are measured on such images; for
    what another seed would give, or for a difference of two arms, hand `rate_by_seed` to `mean_interval` or
    `paired_interval`.

    Args:
        clean_correct: `[n]` or `[seeds, n]`, whether the model was right before the attack.
        fooled: The same shape, whether it is wrong at the point found. What it says of samples that were wrong
            before the attack does not matter.
        confidence: Coverage.

    Raises:
        ValueError: If an argument is not boolean of that shape, the shapes differ, a model has no sample right (its
            rate has no denominator), or the confidence is out of range.

    Example:
        >>> found = attack_success([True, True, True, False], [True, False, False, True])
        >>> f"{found.rate:.2f}", f"{found.robust_accuracy:.2f}"
        ('0.33 [0.06, 0.79]', '0.50 [0.15, 0.85]')
    """
    right, wrong = boolean(clean_correct, "clean_correct"), boolean(fooled, "fooled")
    if right.shape != wrong.shape:
        raise ValueError(f"fooled has shape {wrong.shape}; it must be that of clean_correct, {right.shape}")
    if right.ndim not in (1, 2) or not right.size:
        raise ValueError(f"clean_correct has shape {right.shape}; it must be [n] or [seeds, n], not empty")
    right, wrong = np.atleast_2d(right), np.atleast_2d(wrong)
    if not right.any(axis=1).all():
        none = np.flatnonzero(~right.any(axis=1)).tolist()
        raise ValueError(f"clean_correct has no sample right in the rows {none}: there the rate has no value")
    successes, correct = (right & wrong).sum(axis=1), right.sum(axis=1)
    kept = (right & ~wrong).sum(axis=1)
    return AttackSuccess(
        rate=_pooled(successes, correct, confidence),
        robust_accuracy=_pooled(kept, np.full_like(kept, right.shape[1]), confidence),
        clean_accuracy=_pooled(correct, np.full_like(kept, right.shape[1]), confidence),
        rate_by_seed=tuple((successes / correct).tolist()),
        robust_by_seed=tuple((kept / right.shape[1]).tolist()),
    )


def boolean(values: Any, name: str) -> Bool[np.ndarray, ...]:
    """Return an array of booleans; a tensor may be on any device.

    Raises:
        ValueError: If it holds anything but booleans: rates or logits would count as successes.
    """
    found = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if found.dtype != np.bool_:
        raise ValueError(f"{name} has dtype {found.dtype}; it must be bool")
    return found


def _pooled(successes: np.ndarray, totals: np.ndarray, confidence: float) -> Interval:
    found = wilson_interval(int(successes.sum()), int(totals.sum()), confidence)
    if len(totals) == 1:
        return found
    return replace(found, method=f"Wilson, pooled over {len(totals)} seeds")
