"""An interval for the largest of several effects, by which a claim of all of them is judged."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from faultlines.reporting.intervals import Interval, mean_interval


def largest_effect(effects: Mapping[str, ArrayLike], *, confidence: float = 0.95) -> Interval:
    r"""Return the largest mean effect with an interval that covers it.

    That *all* of $k$ effects lie below a threshold is shown where each one's own interval does (the
    intersection-union test: no correction is needed), and refuted where one lies above it, which any of $k$ may do
    by chance. So the upper end is the largest of the upper ends at `confidence`, and the lower end the largest
    of the lower ends at $1 - (1 - c)/k$ (Bonferroni). Both ends together cover the largest of the true means
    at least as often as `confidence`, up to that of Student's intervals.

    Args:
        effects: By name, one value a seed, in one unit.
        confidence: Coverage.

    Raises:
        ValueError: If there is no effect, or one has fewer than two values or one that is not finite.

    Example:
        >>> found = largest_effect({"first": [-3.0, -2.0, -1.0], "second": [-9.0, -9.5, -10.0]})
        >>> f"{found:.1f}", found.method
        ('-2.0 [-5.6, 0.5]', 'largest of 2: first')
    """
    if not effects:
        raise ValueError("effects is empty; there is nothing to take the largest of")
    plain = {name: mean_interval(values, confidence) for name, values in effects.items()}
    strict = {
        name: mean_interval(values, 1 - (1 - confidence) / len(effects)) for name, values in effects.items()
    }
    name = max(plain, key=lambda effect: plain[effect].estimate)
    return Interval(
        plain[name].estimate,
        max(interval.low for interval in strict.values()),
        max(interval.high for interval in plain.values()),
        min(interval.n for interval in plain.values()),
        f"largest of {len(effects)}: {name}",
        confidence,
    )
