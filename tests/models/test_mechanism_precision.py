"""Every mechanism in float32, float16 and bfloat16 against itself in float64, from tiny entries to large ones."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from faultlines.models import (
    DifferentialAttention,
    LinearAttention,
    RBFAttention,
    SigmoidAttention,
    SoftmaxMechanism,
)
from faultlines.models.mechanism_zoo import ZOO

HEADS, WIDTH, TOKENS = 2, 4, 6
KINDS = {
    "softmax": SoftmaxMechanism,
    "differential": lambda bias: DifferentialAttention(
        HEADS, WIDTH, learn_lambda=False, norm=False, bias=bias
    ),
    "rbf": lambda bias: RBFAttention(HEADS, WIDTH, bias=bias),
    "rbf, normalised": lambda bias: RBFAttention(HEADS, WIDTH, normalise=True, bias=bias),
    "linear": lambda bias: LinearAttention(HEADS, WIDTH, bias=bias),
    "linear, normalised": lambda bias: LinearAttention(HEADS, WIDTH, normalise=True, bias=bias),
    "sigmoid": lambda bias: SigmoidAttention(HEADS, WIDTH, bias=bias),
    **{name: partial(ZOO[name], HEADS, WIDTH) for name in ZOO},
}
BOUNDED_SCORES = ("linear", "linear, normalised", "cosine", "lipsformer")
ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def rows(magnitude, which):
    """Queries, keys and values that every type holds alike."""
    made = torch.randn(3, 1, HEADS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))
    q, k, v = made.bfloat16().double()
    q, k = ((magnitude * t).bfloat16().double() for t in (q, k))
    if which == "duplicates":
        k = q.clone()
    elif which == "opposites":
        k = -q
    elif which == "negative":
        q, k = -q.abs(), -k.abs()
    return q, k, v


def mask():
    return torch.zeros(TOKENS, TOKENS).masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -math.inf)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("which", ["any", "duplicates", "opposites", "negative"])
@pytest.mark.parametrize("magnitude", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_is_the_oracle_up_to_rounding(kind, dtype, magnitude, which, masked):
    made = KINDS[kind](bias=mask() if masked else None)
    q, k, v = rows(magnitude, which)
    _, expected, _ = made.explicit(q, k, v)
    output, maps, _ = made.explicit(q.to(dtype), k.to(dtype), v.to(dtype))
    assert output.dtype == maps.dtype == dtype
    assert expected.isfinite().all()
    if (expected.abs() <= torch.finfo(dtype).max).all():
        assert maps.isfinite().all() and output.isfinite().all()
        # an exponent of size s carries an error of s roundings of float32
        scores = magnitude**2 * WIDTH * 10 if kind not in BOUNDED_SCORES else 1
        error = min(2.0, ROUNDING[dtype] + 3e-7 * scores)
        if (
            kind == "linear, normalised" and magnitude == 1e4
        ):  # a row whose weights are all below float32 is none
            here = maps.sum(-1) > 0
            maps, expected = maps[here], expected[here]
            assert len(maps) > 0 or which == "negative"
        assert ((maps.double() - expected).abs() <= error * expected.abs().clamp(min=1)).all()
    if kind in ("rbf", "softmax", "linear, normalised", "rbf, normalised", *(ZOO.keys() - {"relu"})):
        assert (maps >= 0).all()
        assert (maps.double() <= (1 / TOKENS if kind == "rbf" else 1) * (1 + ROUNDING[dtype])).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_features_below_zero_do_not_cancel(dtype):
    x = torch.tensor([-80.0, -17.0, -7.0, -1.0, -1e-3, 0.0, 1e-3, 5.0])
    x = x[x > -10] if dtype == torch.float16 else x  # exp(-10) is the least that half precision holds well
    q = x.to(dtype).view(1, 1, -1, 1)
    features = LinearAttention(1, 1, temperature=1.0).explicit(
        q, torch.zeros_like(q[..., :1, :]), q[..., :1, :]
    )[1]
    expected = torch.where(q < 0, q.double().exp(), q.double() + 1)
    assert torch.allclose(features.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, *ROUNDING], ids=str)
@pytest.mark.parametrize("low", [-7.0, -17.0, -100.0, -1e4])
def test_a_token_far_below_zero_has_a_share_and_gradients(dtype, low):
    q, k, v = (t.to(dtype).requires_grad_() for t in rows(1.0, "any"))
    with torch.no_grad():
        q[:, :, 0] += low
        k -= abs(low)
    made = LinearAttention(HEADS, WIDTH, normalise=True)
    output, maps, _ = made.explicit(q, k, v)
    assert torch.allclose(maps.sum(-1), torch.ones((), dtype=dtype), atol=4 * torch.finfo(dtype).eps)
    assert all(g.isfinite().all() for g in torch.autograd.grad(output.float().square().sum(), (q, k, v)))
    with torch.no_grad():
        assert torch.allclose(made.fused(q, k, v), output, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_rbf_of_equal_rows_is_its_largest_value_and_none_is_above(offset, normalise):
    q = torch.randn(1, 1, 200, 16, generator=torch.Generator().manual_seed(0)) + offset
    maps = RBFAttention(1, 16, normalise=normalise).weights(q, q)
    assert (maps <= (1 if normalise else 1 / 200)).all()
