from __future__ import annotations

import math

import pytest

from faultlines.reporting.verdicts import select

REFERENCE = {"clean": [0.94, 0.96]}
RULE = {"maximise": "robust", "keep": "clean", "within": 0.02}


def arm(clean: float, robust: float) -> dict[str, list[float]]:
    return {"clean": [clean - 0.1, clean + 0.1], "robust": [robust - 0.1, robust + 0.1]}


def test_the_best_of_those_that_keep_near_enough() -> None:
    arms = {"weak": arm(0.95, 0.3), "middle": arm(0.935, 0.4), "strong": arm(0.9, 0.9)}
    assert select(arms, REFERENCE, **RULE) == "middle"
    assert select(arms, REFERENCE, **RULE | {"within": 0.1}) == "strong"
    assert select(arms, REFERENCE, **RULE | {"within": 0.0}) == "weak"


def test_where_none_keeps_near_the_nearest_is_taken() -> None:
    assert select({"a": arm(0.5, 0.9), "b": arm(0.6, 0.1)}, REFERENCE, **RULE) == "b"


def test_no_candidate_and_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates is empty"):
        select({}, REFERENCE, **RULE)
    with pytest.raises(ValueError, match="robust of candidate 'a' holds values that are not finite"):
        select({"a": arm(0.95, math.nan), "b": arm(0.95, 0.5)}, REFERENCE, **RULE)
