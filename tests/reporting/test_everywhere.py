"""The interval of the largest effect covers it, and judges a claim of all effects at its level."""

from __future__ import annotations

import numpy as np
import pytest

from faultlines.reporting import largest_effect, mean_interval


@pytest.mark.parametrize("means", [[0.0, 0.0, 0.0, 0.0], [0.0, -1.0, -3.0, -9.0], [0.0, -0.2, -0.2, -0.2]])
def test_it_covers_the_largest_mean(means: list[float]) -> None:
    rng = np.random.default_rng(0)
    missed_above = missed_below = 0
    for _ in range(2000):
        found = largest_effect({str(i): rng.normal(mean, 1, size=5) for i, mean in enumerate(means)})
        missed_above += found.low > 0  # would refute what is true at the edge
        missed_below += found.high < 0  # would show what is false at the edge
    # 2.5 % each, and four standard deviations of the count
    assert missed_above <= 2000 * 0.025 + 4 * np.sqrt(2000 * 0.025)
    assert missed_below <= 2000 * 0.025 + 4 * np.sqrt(2000 * 0.025)


def test_one_effect_has_its_own_interval() -> None:
    values = [0.3, -0.1, 0.5, 0.2]
    found, plain = largest_effect({"only": values}), mean_interval(values)
    assert (found.estimate, found.low, found.high) == pytest.approx((plain.estimate, plain.low, plain.high))
    assert found.method == "largest of 1: only"


def test_the_least_certain_effect_holds_the_upper_end() -> None:
    found = largest_effect({"sure": [-1.0, -1.01, -0.99], "vague": [-9.0, 4.0, -7.0]})
    assert found.estimate == pytest.approx(-1.0)
    assert found.high == pytest.approx(mean_interval([-9.0, 4.0, -7.0]).high)


def test_no_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="effects is empty"):
        largest_effect({})
