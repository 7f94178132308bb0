import itertools
import math

import pytest
import torch

from faultlines.estimators.lipschitz import VARIANTS, attention_bound
from faultlines.estimators.lipschitz.heads import Heads
from faultlines.models import Attention

BIAS_FREE = [v for v in VARIANTS if v not in ("centred", "covariance", "rowwise")]


def make_layer(dim, heads, gain, *, bias, seed):
    """A random layer in float64 whose query-key weights are scaled by `gain`."""
    generator = torch.Generator().manual_seed(seed)
    layer = Attention(dim, heads, qkv_bias=bias).double().requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(
            torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / math.sqrt(dim)
        )
    layer.qkv.weight[: 2 * dim] *= gain
    return layer


def make_input(kind, batch, tokens, dim, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(batch, tokens, dim, generator=generator, dtype=torch.float64)
    if kind == "normalised":
        return torch.nn.functional.layer_norm(x, (dim,))
    if kind == "shifted":  # a shared component, as trained networks have
        return torch.nn.functional.layer_norm(
            x + 3 * torch.randn(dim, generator=generator, dtype=torch.float64), (dim,)
        )
    return 2 * x


def true_norm(layer, x):
    def jacobian(sample):
        return torch.func.jacrev(lambda s: layer(s[None])[0])(sample).reshape(sample.numel(), -1)

    return torch.linalg.svdvals(torch.func.vmap(jacobian)(x))[:, 0]


CASES = [
    (heads, gain, kind, bias)
    for heads in (1, 2)
    for gain in (0.1, 1.0, 3.0)
    for kind in ("normalised", "shifted", "raw")
    for bias in (False, True)
]


@pytest.mark.parametrize(("heads", "gain", "kind", "bias"), CASES)
def test_every_variant_bounds_the_true_norm(heads, gain, kind, bias):
    # 36 layers x 4 samples = 144 random points, each with every variant and composition
    seed = CASES.index((heads, gain, kind, bias))
    layer = make_layer(8, heads, gain, bias=bias, seed=seed)
    x = make_input(kind, 4, (4, 7, 9)[seed % 3], 8, seed)
    truth = true_norm(layer, x)
    for variant in VARIANTS:
        for compose in ("sum", "concat", "min"):
            bound = attention_bound(layer, x, variant=variant, compose=compose, query_bias="lift")
            assert bound.shape == (4,)
            assert (bound >= truth * (1 - 1e-10)).all(), (variant, compose)


def test_bounds_are_ordered():
    layer, x = make_layer(8, 2, 2.0, bias=True, seed=3), make_input("shifted", 5, 9, 8, 3)
    bound = {v: attention_bound(layer, x, variant=v, query_bias="lift") for v in VARIANTS}
    order = ["covariance", "centred", "theorem3", "half", "half_sqrt_n", "one_sqrt_n"]
    for tighter, looser in itertools.pairwise(order):
        assert (bound[tighter] <= bound[looser] * (1 + 1e-12)).all(), (tighter, looser)
    assert (bound["theorem3_exact"] <= bound["theorem3"] * (1 + 1e-12)).all()


def test_formulas_on_one_plain_head():
    """Every bound by its formula, written out with dense matrices."""
    n, dim = 5, 6
    layer, x = make_layer(dim, 1, 1.5, bias=False, seed=1), make_input("raw", 1, n, dim, 1)
    w_q, w_k, w_v = (w.T for w in layer.qkv.weight.chunk(3))
    w_v = w_v @ layer.out.weight.T
    a = w_q @ w_k.T / math.sqrt(dim)
    tokens = x[0]
    p = (tokens @ a @ tokens.T).softmax(-1)
    top = p.topk(2).values
    g1 = (top[:, 0] * (1 - top[:, 0] + top[:, 1])).max()
    jacobians = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def norm(m):
        return torch.linalg.matrix_norm(m, ord=2)

    steep = 2 * norm(tokens) ** 2 * norm(a)
    centred = tokens - tokens.mean(0)
    radius = tokens.norm(dim=1).max()
    own = norm(w_v.T @ tokens.T @ jacobians @ tokens @ a.T).max()
    weighted = norm((top[:, 0] * (1 - top[:, 0] + top[:, 1]))[:, None] * (tokens @ a))
    v, reach = tokens @ w_v, (tokens @ a).norm(dim=1)
    blocks = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            blocks[i, j] = p[i, j] * (norm(w_v) + reach[i] * (v[j] - p[i] @ v).norm())
        blocks[i, i] += norm(v.T @ jacobians[i] @ tokens @ a.T)
    expected = {
        "theorem3": norm(w_v) * (norm(p) + steep * g1),
        "theorem3_exact": norm(w_v) * (norm(p) + steep * norm(jacobians).max()),
        "half": norm(w_v) * (norm(p) + steep / 2),
        "half_sqrt_n": norm(w_v) * (math.sqrt(n) + steep / 2),
        "one": norm(w_v) * (norm(p) + steep),
        "one_sqrt_n": norm(w_v) * (math.sqrt(n) + steep),
        "castin": math.sqrt(3) * norm(w_v) * (norm(a) ** 2 * radius**4 * (4 * n + 1) + n).sqrt(),
        "specformer": n * (n + 1) * tokens.norm() ** 2 * norm(w_v) * (norm(w_q) * norm(w_k) + 1),
        "centred": norm(p) * norm(w_v) + g1 * norm(centred @ w_v) * (norm(a @ centred.T) + norm(tokens @ a)),
        "covariance": norm(p) * norm(w_v) + own + norm(centred @ w_v) * weighted,
        "rowwise": norm(blocks),
    }
    assert set(expected) == set(VARIANTS)
    for variant, value in expected.items():
        torch.testing.assert_close(attention_bound(layer, x, variant=variant, compose="sum")[0], value)


@pytest.mark.parametrize("variant", ["theorem3", "theorem3_exact", "centred", "covariance", "rowwise"])
def test_exact_at_a_one_hot_permutation(variant):
    dim = 6
    layer = make_layer(dim, 1, 1.0, bias=False, seed=0)
    layer.qkv.weight[: 2 * dim] = 60 * torch.eye(dim, dtype=torch.float64).repeat(2, 1)
    x = torch.eye(dim, dtype=torch.float64)[None]  # each token attends to itself only
    truth = true_norm(layer, x)
    torch.testing.assert_close(attention_bound(layer, x, variant=variant), truth, rtol=1e-10, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_value_weights_scale_every_bound(variant):
    layer, x = make_layer(8, 2, 1.0, bias=False, seed=2), make_input("raw", 2, 5, 8, 2)
    before = attention_bound(layer, x, variant=variant)
    layer.qkv.weight[16:] *= 3
    torch.testing.assert_close(attention_bound(layer, x, variant=variant), 3 * before)


def test_a_constant_on_all_tokens_leaves_the_centred_factors_alone():
    layer, x = make_layer(8, 2, 0.5, bias=True, seed=4), make_input("raw", 2, 5, 8, 4)
    before, after = (Heads(layer, y, merge_output=True) for y in (x, x + 5.0))
    torch.testing.assert_close(after.norm_v_centred, before.norm_v_centred)
    torch.testing.assert_close(after.norm_query_side, before.norm_query_side)
    inflated = attention_bound(layer, x + 5.0, query_bias="lift", variant="one")
    assert (inflated > 2 * attention_bound(layer, x, query_bias="lift", variant="one")).all()


def test_key_and_value_biases_change_no_jacobian_and_no_bound():
    layer, x = make_layer(8, 2, 1.0, bias=True, seed=5), make_input("raw", 2, 5, 8, 5)
    layer.qkv.bias[:8] = 0
    truth, bounds = true_norm(layer, x), [attention_bound(layer, x, variant=v) for v in VARIANTS]
    layer.qkv.bias[8:] *= 7
    torch.testing.assert_close(true_norm(layer, x), truth)
    for variant, bound in zip(VARIANTS, bounds, strict=True):
        torch.testing.assert_close(attention_bound(layer, x, variant=variant), bound)


def test_token_order_does_not_matter():
    layer, x = make_layer(8, 2, 1.0, bias=True, seed=6), make_input("raw", 2, 5, 8, 6)
    for variant in VARIANTS:
        a, b = (attention_bound(layer, y, variant=variant, query_bias="lift") for y in (x, x.flip(1)))
        torch.testing.assert_close(a, b)


def test_per_head_bounds_hold_for_each_head_alone():
    layer, x = make_layer(8, 2, 2.0, bias=True, seed=7), make_input("normalised", 3, 5, 8, 7)
    whole = layer.out.weight.clone()
    for variant in VARIANTS:
        bound = attention_bound(layer, x, variant=variant, per_head=True, query_bias="lift")
        assert bound.shape == (3, 2)
        for h in range(2):
            layer.out.weight.zero_()
            layer.out.weight[:, 4 * h : 4 * h + 4] = whole[:, 4 * h : 4 * h + 4]
            assert (bound[:, h] >= true_norm(layer, x) * (1 - 1e-10)).all()
        layer.out.weight.copy_(whole)


@pytest.mark.parametrize("variant", BIAS_FREE)
def test_a_query_bias_raises_where_a_variant_assumes_none(variant):
    layer, x = make_layer(8, 2, 1.0, bias=True, seed=1), make_input("raw", 2, 5, 8, 1)
    with pytest.raises(ValueError, match="query bias"):
        attention_bound(layer, x, variant=variant)
    layer.qkv.bias[:8] = 0
    plain = attention_bound(layer, x, variant=variant)
    torch.testing.assert_close(attention_bound(layer, x, variant=variant, query_bias="lift"), plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "theorem4"}, "variant="),
        ({"compose": "product"}, "compose="),
        ({"query_bias": "ignore"}, "query_bias="),
    ],
)
def test_unknown_names_raise(arguments, message):
    layer, x = make_layer(8, 2, 1.0, bias=True, seed=1), make_input("raw", 2, 5, 8, 1)
    with pytest.raises(ValueError, match=message):
        attention_bound(layer, x, **arguments)


def test_other_mechanisms_and_shapes_raise():
    layer = Attention(8, 2, mechanism=torch.nn.Identity())
    with pytest.raises(ValueError, match="Identity"):
        attention_bound(layer, torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="shape"):
        attention_bound(Attention(8, 2), torch.zeros(1, 3, 6))


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(1, 0, 4), "token"), (torch.zeros(1, 3, 4, dtype=torch.float64), "dtype")],
)
def test_no_token_and_another_dtype_raise(x, message):
    with pytest.raises(ValueError, match=message):
        attention_bound(Attention(4, 2, qkv_bias=False), x)
