from __future__ import annotations

import pytest
import torch

from faultlines.estimators import linear_probe


def draw(n=120, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator), torch.arange(n) % 3


def test_a_label_that_is_there_is_read_and_one_that_is_not_is_not():
    x, y = draw()
    assert linear_probe(x, y) < 0.5  # chance is a third
    x[:, 0] += 10 * y
    assert linear_probe(x, y) > 0.95


def test_scale_and_shift_of_a_feature_do_not_matter():
    x, y = draw()
    x[:, 1] += y
    assert linear_probe(x, y) == pytest.approx(linear_probe(1000 * x + 50, y), abs=0.02)


def test_a_constant_feature_is_harmless_and_the_seed_decides():
    x, y = draw()
    x[:, 2] = 7
    assert linear_probe(x, y, seed=3) == linear_probe(x, y, seed=3)


def test_the_folds_are_held_out():
    x, y = draw(60, 59)  # as many features as samples: a probe would know its own samples by heart
    assert linear_probe(x, y) < 0.6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:-1], y), r"features have shape \(119, 4\)"),
        (lambda x, y: (x * float("nan"), y), "not finite"),
        (lambda x, y: (x, 0 * y), "folds=2 needs two labels"),
        (lambda x, y: (x[:4], y[:4]), "folds=2 needs two labels"),
    ],
)
def test_bad_input_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        linear_probe(*change(*draw()))
