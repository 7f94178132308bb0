from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultlines.estimators.attention_statistics import collision_entropy, row_shares, softmax_facts
from faultlines.models import ViT, record


def scores(batch=200, n=7, scale=3.0):
    return scale * torch.randn(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_shares_of_distributions_are_those_of_torch():
    p = scores().softmax(-1)
    found = row_shares(p)
    torch.testing.assert_close(found.entropy, torch.distributions.Categorical(probs=p).entropy())
    torch.testing.assert_close(found.mass, torch.ones(200, dtype=torch.float64))
    torch.testing.assert_close(found.relative, found.entropy / math.log(7))


@pytest.mark.parametrize("factor", [1e-300, 1e-5, 0.1, 30.0])
def test_a_factor_changes_the_mass_and_not_the_entropy(factor):
    p = scores().softmax(-1)
    one, other = row_shares(p), row_shares(factor * p)
    torch.testing.assert_close(other.entropy, one.entropy)
    torch.testing.assert_close(other.mass, factor * one.mass)


def test_defined_values():
    found = row_shares(torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.2, 0.2, 0.2]]))
    torch.testing.assert_close(found.relative, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(found.mass, torch.tensor([0.0, 3.0, 0.6]))
    assert row_shares(torch.rand(4, 1)).relative.eq(1).all()


@pytest.mark.parametrize("attention", ["softmax", "rbf", "linear", "sigmoid"])
def test_of_recorded_maps(attention):
    torch.manual_seed(0)
    sizes = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 2}
    model = ViT(**sizes, attention=attention)
    with torch.no_grad(), record() as tape:
        model(torch.rand(3, 1, 4, 4))
    for maps in tape.maps:
        found = row_shares(maps)
        assert found.mass.shape == found.entropy.shape == (3, 2, 5)
        assert (found.relative <= 1 + 1e-6).all() and (found.relative >= 0).all()
        assert torch.allclose(found.mass, torch.ones(())) == (attention == "softmax")


def test_the_trace_is_that_of_the_dense_jacobian_and_of_the_entropy():
    s = scores(20)
    found = softmax_facts(s)
    for i in range(20):
        dense = torch.autograd.functional.jacobian(lambda z: z.softmax(-1), s[i])
        torch.testing.assert_close(found.trace[i], dense.trace())
    torch.testing.assert_close(found.trace, found.trace_from_entropy)
    p = s.softmax(-1)
    assert (collision_entropy(p) <= row_shares(p).entropy + 1e-12).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-40, 40), min_size=1, max_size=12))
def test_the_entropy_deficit_is_bounded_by_the_range_of_the_scores(values):
    found = softmax_facts(torch.tensor(values, dtype=torch.float64))
    assert found.deficit <= found.deficit_bound * (1 + 1e-9) + 1e-12
    assert abs(found.trace - found.trace_from_entropy) <= 1e-12


def test_the_bound_is_sharp_for_small_ranges():
    """Two equal halves at distance R: the deficit is R^2/8 to leading order."""
    s = torch.tensor([0.0, 0.0, 1e-3, 1e-3], dtype=torch.float64)
    found = softmax_facts(s)
    assert found.deficit / found.deficit_bound == pytest.approx(1, rel=1e-3)


def test_bad_input_is_named():
    for call, message in (
        (lambda: row_shares(torch.tensor([0.5, -0.1])), r"entries from -0\.1"),
        (lambda: row_shares(torch.tensor([0.5, math.nan])), "entries from nan"),
        (lambda: row_shares(torch.tensor([1, 2])), "dtype torch.int64"),
        (lambda: softmax_facts(torch.tensor([0.0, math.inf])), "scores has an entry"),
        (lambda: softmax_facts(torch.tensor([1, 2])), "dtype torch.int64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
