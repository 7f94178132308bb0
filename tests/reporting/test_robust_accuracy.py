from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from faultlines.reporting import attack_success, mean_interval, wilson_interval
from faultlines.reporting.robust_accuracy import accuracy_curve

EPS = (0.0, 1 / 255, 2 / 255, 4 / 255)


def measured() -> tuple[np.ndarray, np.ndarray]:
    """Two seeds of 80 samples at four radii, with misses of the attack at larger ones."""
    generator = np.random.default_rng(0)
    right = generator.random((2, 80)) < 0.9
    falls_at = generator.random((2, 80)) * 6 / 255
    fooled = np.stack([(falls_at < eps) & (generator.random((2, 80)) < 0.8) for eps in EPS])
    return right, fooled


def test_every_point_is_the_success_at_its_radius() -> None:
    right, fooled = measured()
    curve = accuracy_curve(EPS, torch.tensor(right), torch.tensor(fooled))
    for at, point in zip(fooled, curve.points, strict=True):
        assert point == attack_success(right, at)
    rate, robust = curve.rate(), curve.robust_accuracy()
    assert rate.shape == robust.shape == (4, 3)
    assert rate[0, 0] == 0
    assert (robust[:, 1] <= robust[:, 0]).all()
    assert (robust[:, 0] <= robust[:, 2]).all()
    assert robust[2].tolist() == [
        getattr(curve.points[2].robust_accuracy, end) for end in ("estimate", "low", "high")
    ]


def test_a_nested_curve_falls_and_never_lies_above() -> None:
    right, fooled = measured()
    plain, nested = (accuracy_curve(EPS, right, fooled, nested=nested) for nested in (False, True))
    assert plain.reversals == nested.reversals
    assert sum(plain.reversals) > 0
    robust = nested.robust_accuracy()[:, 0]
    assert (np.diff(robust) <= 0).all()
    assert (robust <= plain.robust_accuracy()[:, 0]).all()
    again = accuracy_curve(EPS, right, np.logical_or.accumulate(fooled, axis=0))
    assert again.points == nested.points
    assert sum(again.reversals) == 0


def test_reversals_count_clean_correct_samples_only() -> None:
    right = [True, True, False]
    fooled = [[True, False, True], [False, True, False], [True, False, False]]
    curve = accuracy_curve([0.1, 0.2, 0.3], right, fooled)
    assert curve.reversals == (0, 1, 1)
    assert "2 times" in curve.note()
    assert "misses" in curve.note()
    assert "counts as fooled" in accuracy_curve([0.1, 0.2, 0.3], right, fooled, nested=True).note()
    assert "No sample" in accuracy_curve([0.1], right, fooled[:1]).note()


def test_the_table_has_a_row_a_radius() -> None:
    right, fooled = measured()
    table = accuracy_curve(EPS, right, fooled).table("PGD.")
    assert [row[0] for row in table.rows] == ["0/255", "1/255", "2/255", "4/255"]
    assert f"{attack_success(right, fooled[3]).rate:.3f}" in table.rows[3]
    assert table.caption.startswith("PGD. ")


@pytest.mark.parametrize("eps", [(), (0.1, 0.1), (0.2, 0.1), (-0.1, 0.1), (0.1, math.nan), (0.1, math.inf)])
def test_radii_have_to_rise(eps: tuple[float, ...]) -> None:
    fooled = np.ones((len(eps), 3), dtype=bool)
    with pytest.raises(ValueError, match=r"eps=\[.*\] must rise"):
        accuracy_curve(eps, [True] * 3, fooled)


def test_shapes_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"fooled has shape \(2, 3\); 3 radii .* ask for \(3, 3\)"):
        accuracy_curve([0.1, 0.2, 0.3], [True] * 3, np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="fooled has dtype int64"):
        accuracy_curve([0.1], [True], [[1]])


def drawn(*shape: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def test_counts_by_hand() -> None:
    right = torch.tensor([True] * 8 + [False] * 2)
    fooled = torch.tensor([True] * 3 + [False] * 5 + [True, False])
    found = attack_success(right, fooled)
    assert found.rate == wilson_interval(3, 8)
    assert found.robust_accuracy == wilson_interval(5, 10)
    assert found.clean_accuracy == wilson_interval(8, 10)
    assert found.rate_by_seed == (3 / 8,)
    assert found.robust_by_seed == (0.5,)


def test_samples_wrong_before_the_attack_do_not_count() -> None:
    right, fooled = drawn(50, share=0.7, seed=0), drawn(50, share=0.4, seed=1)
    assert (~right).any()
    assert attack_success(right, fooled) == attack_success(right, fooled | ~right)
    assert attack_success(right, fooled) == attack_success(right, fooled & right)


def test_robust_accuracy_is_what_the_rate_leaves_of_the_clean_one() -> None:
    right, fooled = drawn(4, 60, share=0.8, seed=2), drawn(4, 60, share=0.3, seed=3)
    found = attack_success(right, fooled)
    left = found.clean_accuracy.estimate * (1 - found.rate.estimate)
    assert found.robust_accuracy.estimate == pytest.approx(left)
    assert found.robust_accuracy.estimate == pytest.approx(np.mean(found.robust_by_seed))


def test_pooling_adds_up_counts_and_keeps_the_seeds() -> None:
    right, fooled = drawn(3, 40, share=0.8, seed=4), drawn(3, 40, share=0.5, seed=5)
    pooled = attack_success(right, fooled)
    alone = [attack_success(*of_seed) for of_seed in zip(right, fooled, strict=True)]
    assert pooled.rate.n == sum(one.rate.n for one in alone)
    assert pooled.rate.method == "Wilson, pooled over 3 seeds"
    assert pooled.rate_by_seed == tuple(one.rate.estimate for one in alone)
    assert pooled.robust_by_seed == tuple(one.robust_accuracy.estimate for one in alone)
    flat = attack_success(right.ravel(), fooled.ravel())
    assert (pooled.rate.low, pooled.rate.high) == (flat.rate.low, flat.rate.high)
    assert mean_interval(pooled.rate_by_seed).n == 3


def test_every_sample_fooled_and_none() -> None:
    right = [True] * 20
    assert attack_success(right, [True] * 20).rate.high == 1
    assert attack_success(right, [True] * 20).robust_accuracy.estimate == 0
    none = attack_success(right, [False] * 20, confidence=0.9)
    assert (none.rate.estimate, none.rate.low, none.rate.confidence) == (0, 0, 0.9)


@pytest.mark.parametrize(
    ("right", "fooled", "words"),
    [
        ([1, 0], [True, True], "clean_correct has dtype int64; it must be bool"),
        ([True, True], [0.5, 0.1], "fooled has dtype float64; it must be bool"),
        ([True, True], [True], r"fooled has shape \(1,\); it must be that of clean_correct, \(2,\)"),
        (np.ones((1, 2, 2), bool), np.ones((1, 2, 2), bool), r"clean_correct has shape \(1, 2, 2\)"),
        (np.ones((2, 0), bool), np.ones((2, 0), bool), r"clean_correct has shape \(2, 0\)"),
        ([[True, False], [False, False]], np.ones((2, 2), bool), r"no sample right in the rows \[1\]"),
    ],
)
def test_bad_input_is_named(right: object, fooled: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attack_success(right, fooled)


def test_bad_confidence_is_named() -> None:
    with pytest.raises(ValueError, match="confidence=95"):
        attack_success([True], [True], confidence=95)
