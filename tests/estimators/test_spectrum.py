from __future__ import annotations

import math

import pytest
import torch

from faultlines.estimators.spectral import amplification, gram_condition, kernel_condition, predicted_width
from faultlines.models.linearized import linear_attention, stacked_attention


def with_spectrum(singular, n=9, d=6):
    draw = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(n, len(singular), generator=draw, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(d, len(singular), generator=draw, dtype=torch.float64))
    return left @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ right.T


def test_rules_on_a_known_spectrum():
    x = with_spectrum([10.0, 5.0, 1.0, 1e-12])
    assert gram_condition(x, "rank", 1e-10).kappa == pytest.approx(100)
    assert gram_condition(x, "rank", 1e-10).rank == 3
    assert gram_condition(x, "top", 2).kappa == pytest.approx(4)
    assert gram_condition(x, "energy", 0.99).rank == 2  # (100 + 25) / 126 = 0.992
    assert gram_condition(x, "energy", 0.993).rank == 3
    # 9 rows of 6 columns: the Gram matrix itself is singular, its ridged condition is (100 + l) / l
    assert gram_condition(x, "ridge", 0.5).kappa == pytest.approx(100.5 / 0.5)
    assert gram_condition(x).spectrum[:3].tolist() == pytest.approx([100, 25, 1])


def test_ridge_rule_is_the_condition_of_the_shifted_gram_matrix():
    for n, d in ((4, 7), (7, 4)):
        x = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected = float(torch.linalg.cond(x @ x.T + 0.3 * torch.eye(n, dtype=torch.float64)))
        assert gram_condition(x, "ridge", 0.3).kappa == pytest.approx(expected, rel=1e-9)


def test_a_dark_pixel_makes_the_worded_condition_infinite():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, 2] = 0
    assert gram_condition(x, "top", 4).kappa > 1e25  # zero up to rounding
    x = torch.diag(torch.tensor([1.0, 0.0]))
    assert gram_condition(x, "top", 2).kappa == math.inf


def test_attention_cubes_where_an_eigensolver_fails():
    x = with_spectrum([1.0, 0.3, 1e-3])
    assert amplification(x, linear_attention(x), 1e-4 * 3) == pytest.approx(3, abs=1e-6)
    assert amplification(x, stacked_attention(x, layers=2), 1e-2) == pytest.approx(5, abs=1e-6)
    assert gram_condition(linear_attention(x), "top", 3).kappa == pytest.approx(1e18, rel=1e-5)
    gram = x @ x.T
    naive = torch.linalg.eigvalsh(gram @ gram @ gram)
    assert not 0.5 < float(naive[-1] / naive[-3]) / 1e18 < 2  # what this module is there to avoid


def test_kernel_condition():
    assert kernel_condition(torch.diag(torch.tensor([2.0, 8.0]))) == pytest.approx(4)
    assert kernel_condition(torch.ones(3, 3, dtype=torch.float64)) == math.inf


def test_predicted_widths_are_the_papers():
    # v2's 1e24 (MNIST) and 1e29 (CIFAR-10) are v1's condition numbers with the whole training sets
    assert math.log10(predicted_width(1.2e3, version="v2", n=60_000)) == pytest.approx(24, abs=0.5)
    assert math.log10(predicted_width(8.7e3, version="v2", n=50_000)) == pytest.approx(29, abs=0.5)
    assert predicted_width(10.0, version="v1", accuracy=0.1) == pytest.approx(1e8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gram_condition(x, "best"), "rule='best' is not one of"),
        (lambda x: gram_condition(x, "rank", 1.0), r"value=1.0 must be in \[0, 1\)"),
        (lambda x: gram_condition(x, "energy", 0.0), r"value=0.0 must be in \(0, 1\]"),
        (lambda x: gram_condition(x, "top", 99), "an integer from 1 to 4"),
        (lambda x: gram_condition(x, "ridge", -1.0), "at least 0"),
        (lambda x: amplification(x, x, 1e-8), "tolerance=1e-08 must lie between"),
        (lambda x: amplification(x, x, 0.999), "leaves 1 singular value"),
        (lambda x: predicted_width(0.5, version="v1"), "kappa=0.5 must be at least 1"),
        (lambda x: predicted_width(5.0, version="v2"), "n=0 must be at least 2"),
        (lambda x: predicted_width(5.0, version="v3"), "version='v3' is not one of"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(with_spectrum([1.0, 0.5, 0.2, 0.1], n=5, d=4))
