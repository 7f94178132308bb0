from __future__ import annotations

import numpy as np
import pytest
import torch

from faultlines.reporting import attack_success, mean_interval, wilson_interval


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
