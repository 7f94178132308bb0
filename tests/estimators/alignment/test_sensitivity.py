from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faultlines.estimators.alignment import (
    combined_norm,
    sensitivity_ratio,
    sensitivity_terms,
    sensitivity_threshold,
)

positive = st.floats(0.01, 20)
cosines = st.floats(-1, 1)


@given(gamma=positive, lambda_rho=positive, cosine=cosines)
def test_theorem_3_is_theorem_2_above_one(gamma, lambda_rho, cosine):
    ratio, threshold = sensitivity_ratio(gamma, lambda_rho, cosine), sensitivity_threshold(gamma, lambda_rho)
    if abs(ratio - 1) > 1e-9:
        assert bool(ratio > 1) == bool(cosine < threshold)


@given(norm1=positive, norm2=positive, cosine=cosines, lam=st.floats(-3, 3))
def test_lemma_1_in_the_plane(norm1, norm2, cosine, lam):
    u = norm1 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    v = norm2 * torch.tensor([cosine, math.sqrt(1 - cosine**2)], dtype=torch.float64)
    expected = (u - lam * v).norm()
    # next to total cancellation the square loses half the digits
    assert torch.allclose(combined_norm(norm1, norm2, cosine, lam), expected, rtol=1e-9, atol=1e-6 * norm1)


@given(lambda_rho=positive, cosine=cosines)
def test_terms_add_up(lambda_rho, cosine):
    second, cross = sensitivity_terms(lambda_rho, cosine)
    square = combined_norm(1.0, lambda_rho, cosine, 1.0) ** 2
    assert (1 + second + cross).item() == pytest.approx(square.item(), rel=1e-9, abs=1e-9)


def test_a_negative_cosine_is_neither_necessary_nor_sufficient():
    assert sensitivity_ratio(1.0, 0.8, 0.3) > 1 > sensitivity_ratio(1.0, 0.8, 0.5)
    assert sensitivity_threshold(1.0, 0.8).item() == pytest.approx(0.4)
    assert sensitivity_ratio(0.5, 0.8, -1.0) < 1 and sensitivity_threshold(0.5, 0.8) < -1


def test_they_broadcast_over_tensors():
    cosine = torch.linspace(-1, 1, 5)[:, None]
    surface = sensitivity_ratio(1.0, torch.tensor([0.2, 0.8]), cosine)
    assert surface.shape == (5, 2) and surface.dtype == torch.float32
    assert torch.allclose(surface[0], torch.tensor([1.2, 1.8])) and torch.allclose(
        surface[-1], torch.tensor([0.8, 0.2])
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sensitivity_ratio(0.0, 1.0, 0.0), "gamma=0.0"),
        (lambda: sensitivity_ratio(1.0, 1.0, 1.5), "cosine=1.5"),
        (lambda: sensitivity_threshold(-1.0, 1.0), "gamma=-1.0"),
        (lambda: sensitivity_threshold(1.0, torch.tensor([1.0, 0.0])), "lambda_rho=0.0"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
