from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from faultlines.reporting import accuracy_curve, attack_success

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
