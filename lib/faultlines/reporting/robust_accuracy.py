"""How often an attack succeeds on the samples it had to change, and the accuracy it leaves; at one radius or many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from faultlines.reporting.intervals import Interval, wilson_interval
from faultlines.reporting.tables import Table


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


@dataclass(frozen=True)
class AccuracyCurve:
    """Attack success and robust accuracy at rising radii.

    Attributes:
        eps: The radii.
        points: What the attack did at each.
        nested: Whether a success counts at all larger radii too.
        reversals: For each radius, the clean-correct samples (over all seeds) that the attack fooled at some smaller
            radius but not at this one. The smaller point lies in the larger ball, so each is a miss of the attack:
            many of them say that the curve measures the attack and not the model.
    """

    eps: tuple[float, ...]
    points: tuple[AttackSuccess, ...]
    nested: bool
    reversals: tuple[int, ...]

    def robust_accuracy(self) -> Float[np.ndarray, "eps 3"]:
        """Return estimate, lower and upper end at each radius."""
        return _ends([point.robust_accuracy for point in self.points])

    def rate(self) -> Float[np.ndarray, "eps 3"]:
        """Return the attack success rate at each radius: estimate, lower and upper end."""
        return _ends([point.rate for point in self.points])

    def note(self) -> str:
        """Return what a reader has to know of the curve's monotony, in a sentence."""
        missed = sum(self.reversals)
        if not missed:
            return "No sample fooled at a smaller radius survived a larger one."
        times = f"{missed} time{'s' if missed > 1 else ''} a sample fooled at a smaller radius survived a larger one"
        if self.nested:
            return f"{times}; it counts as fooled there, since the smaller point lies in the larger ball."
        return f"{times}: the attack's misses, which the curve still counts as robust."

    def table(self, caption: str = "") -> Table:
        """Return one row a radius, in pixel steps of 1/255, with the note after the caption."""
        rows = [
            (f"{255 * eps:g}/255", f"{point.rate:.3f}", f"{point.robust_accuracy:.3f}", missed)
            for eps, point, missed in zip(self.eps, self.points, self.reversals, strict=True)
        ]
        header = (r"$\epsilon$", "attack success rate", "robust accuracy", "missed")
        return Table(header, rows, caption=f"{caption} {self.note()}".strip())


def accuracy_curve(
    eps: Sequence[float],
    clean_correct: Bool[ArrayLike, "*seeds n"],
    fooled: Bool[ArrayLike, "eps *seeds n"],
    *,
    nested: bool = False,
    confidence: float = 0.95,
) -> AccuracyCurve:
    """Return attack success and robust accuracy at each radius.

    Attacks run afresh at each radius need not give a falling curve. `nested=True` makes it one: what fooled the
    model in a smaller ball also lies in every larger one, as an attack that starts from the last radius' points would
    find.

    Args:
        eps: Rising radii in pixels (0 to 1); 0 may be the first.
        clean_correct: `[n]` or `[seeds, n]`, whether the model was right before the attack.
        fooled: The same for each radius, `[eps, n]` or `[eps, seeds, n]`, whether it is wrong at the point found.
        nested: Whether a success counts at all larger radii.
        confidence: Coverage of the Wilson intervals.

    Raises:
        ValueError: If the radii do not rise from 0 or above, or the shapes do not fit; see `attack_success`.

    Example:
        >>> right, fooled = [True] * 4, [[False] * 4, [True, False, False, False], [True, True, False, False]]
        >>> accuracy_curve([0, 0.1, 0.2], right, fooled).robust_accuracy()[:, 0].tolist()
        [1.0, 0.75, 0.5]
    """
    radii = [float(radius) for radius in eps]
    rising = all(a < b for a, b in pairwise(radii))
    if not radii or not all(map(math.isfinite, radii)) or radii[0] < 0 or not rising:
        raise ValueError(f"eps={list(eps)} must rise, from 0 or above")
    right, wrong = boolean(clean_correct, "clean_correct"), boolean(fooled, "fooled")
    if wrong.shape != (len(radii), *right.shape):
        raise ValueError(
            f"fooled has shape {wrong.shape}; {len(radii)} radii and clean_correct ask for "
            f"{(len(radii), *right.shape)}"
        )
    before = np.logical_or.accumulate(wrong, axis=0)
    missed = (before & ~wrong & right).reshape(len(radii), -1).sum(axis=1)
    counted = before if nested else wrong
    return AccuracyCurve(
        eps=tuple(radii),
        points=tuple(attack_success(right, at, confidence) for at in counted),
        nested=nested,
        reversals=tuple(missed.tolist()),
    )


def _ends(intervals: list[Interval]) -> Float[np.ndarray, "n 3"]:
    return np.array([(one.estimate, one.low, one.high) for one in intervals])
