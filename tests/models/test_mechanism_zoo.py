"""The zoo of mechanisms against loops in float64, the package entmax, torch's own attention, and their bounds."""

from __future__ import annotations

import math
import subprocess
import sys

import entmax
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.func import functional_call, jvp, vmap

from faultlines.estimators import attention_bound
from faultlines.models import Attention, ViT, record
from faultlines.models.lipschitz_attention import L2Attention, LipsFormerAttention
from faultlines.models.mechanism_zoo import ZOO, entmax15, sparsemax
from faultlines.models.transformer_blocks import MECHANISMS, ZOO_NAMES

DIM, HEADS, TOKENS, BATCH = 12, 3, 5, 2
WIDTH = DIM // HEADS
SIZES = {"image_size": 8, "patch_size": 4, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 2}
CASES = [(name, {}) for name in ZOO] + [
    ("lipsformer", {"tau": 3.0, "nu": 0.5, "eps": 0.1}),
    ("gated", {"each": "head"}),
]
MASKS = ("none", "finite and closed", "a row closed")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def mask(which):
    if which == "none":
        return None
    bias = torch.randn(TOKENS, TOKENS, dtype=torch.float64, generator=rng(3))
    bias = bias.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -math.inf)
    return bias if which == "finite and closed" else bias.index_fill(0, torch.tensor([2]), -math.inf)


def layer(name, bias=None, seed=0, **options):
    torch.manual_seed(seed)
    made = Attention(DIM, HEADS, mechanism=ZOO[name](HEADS, WIDTH, bias=bias, **options))
    made.double()
    if name == "cosine":
        made.mechanism.log_scale.data.fill_(math.log(10))  # not rounded to float32
    return made


def tokens(batch=BATCH):
    return torch.randn(batch, TOKENS, DIM, dtype=torch.float64, generator=rng(1))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax_row(scores, extra=0.0):
    """Softmax with `extra` added to its denominator; zeros where all is closed."""
    total = sum(math.exp(s) for s in scores) + extra
    return [math.exp(s) / total if total else 0.0 for s in scores]


def loop_row(name, options, q, keys, bias):
    """One row of the map, from one query and all keys."""
    scores = [dot(q, k) / math.sqrt(WIDTH) + b for k, b in zip(keys, bias, strict=True)]
    if name == "l2":
        return softmax_row(
            [
                b - sum((x - y) ** 2 for x, y in zip(q, k, strict=True)) / math.sqrt(WIDTH)
                for k, b in zip(keys, bias, strict=True)
            ]
        )
    if name in ("cosine", "lipsformer"):
        eps = options.get("eps", 1e-6) if name == "lipsformer" else 0.0
        scale = options.get("tau", 10.0)
        long = [math.sqrt(dot(k, k) + eps) * math.sqrt(dot(q, q) + eps) for k in keys]
        return softmax_row(
            [scale * dot(q, k) / size + b for k, size, b in zip(keys, long, bias, strict=True)]
        )
    if name == "relu":
        return [max(s, 0.0) / len(keys) for s in scores]
    if name == "off by one":
        return softmax_row(scores, 1.0)
    if name in ("sparsemax", "entmax"):
        if max(scores) == -math.inf:
            return [0.0] * len(keys)
        oracle = {"sparsemax": entmax.sparsemax, "entmax": entmax.entmax15}[name]
        lowest = [max(s, max(scores) - 100) for s in scores]  # the package knows no closed keys
        return oracle(torch.tensor(lowest, dtype=torch.float64), dim=-1).tolist()
    return softmax_row(scores)


def loop_layer(name, options, made, x, bias):
    """The whole layer in loops over batch, heads and queries; outputs and maps."""
    rows = bias.tolist() if bias is not None else [[0.0] * TOKENS] * TOKENS
    of_q, _, of_v = made.qkv.weight.detach().split(DIM)
    q, k, v = (x @ made.qkv.weight.T + made.qkv.bias).detach().split(DIM, dim=-1)
    maps = torch.zeros(len(x), HEADS, TOKENS, TOKENS, dtype=torch.float64)
    heads = torch.zeros(len(x), TOKENS, DIM, dtype=torch.float64)
    for b in range(len(x)):
        for h in range(HEADS):
            part = slice(h * WIDTH, (h + 1) * WIDTH)
            asked, keys, values = q[b, :, part], k[b, :, part], v[b, :, part]
            if name == "l2":
                keys = asked
                values = (
                    (x[b] @ of_q[part].T + made.qkv.bias[part]) @ of_q[part] @ of_v[part].T / math.sqrt(WIDTH)
                )
            if name == "lipsformer":
                size = (values.square().sum(-1, keepdim=True) + options.get("eps", 1e-6)).sqrt()
                values = options.get("nu", 1.0) * values / size
            for i in range(TOKENS):
                row = loop_row(name, options, asked[i].tolist(), keys.tolist(), rows[i])
                row = torch.tensor(row, dtype=torch.float64)
                if name == "differential v2":
                    second = x[b, i] @ made.mechanism.queries.weight[part].T
                    other = softmax_row(
                        [
                            dot(second.tolist(), key) / math.sqrt(WIDTH) + c
                            for key, c in zip(keys.tolist(), rows[i], strict=True)
                        ]
                    )
                    lam = 1 / (1 + math.exp(-dot(x[b, i].tolist(), made.mechanism.share.weight[h].tolist())))
                    row = row - lam * torch.tensor(other, dtype=torch.float64)
                maps[b, h, i] = row
                heads[b, i, part] = row @ values
                if name == "gated":
                    each = options.get("each", "coordinate") == "coordinate"
                    weight = made.mechanism.gate.weight[part if each else slice(h, h + 1)]
                    heads[b, i, part] *= 1 / (1 + (-(x[b, i] @ weight.T)).exp())
    return (heads @ made.out.weight.T + made.out.bias).detach(), maps.detach()


@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_layer_is_the_loops_by_the_explicit_and_by_the_fused_form(name, options, which):
    bias, x = mask(which), tokens()
    made = layer(name, bias, **options)
    expected, expected_maps = loop_layer(name, options, made, x, bias)
    with record() as tape:
        output = made(x)
    assert torch.allclose(tape.maps[0], expected_maps, rtol=1e-10, atol=1e-12)
    assert torch.allclose(output, expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(made(x), expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(
            made(x), expected, rtol=1e-10, atol=1e-12
        )  # no tape, no gradient: the fused form
        assert made._may_fuse()
        if made.any_queries():
            assert torch.allclose(made(x, 2), expected[:, :2], rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad(made(x).square().sum(), made.parameters(), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_second_derivatives_and_transforms(name, options):
    made, x = layer(name, **options), tokens()
    assert torch.autograd.gradgradcheck(made, (x[:1, :3].clone().requires_grad_(),))
    tangent = torch.randn(x.shape, dtype=x.dtype, generator=rng(4))
    with torch.no_grad():
        _, ours = jvp(made, (x,), (tangent,))
        h = 1e-6
        assert torch.allclose(ours, (made(x + h * tangent) - made(x - h * tangent)) / (2 * h), atol=1e-6)
        weights = {n: torch.stack([p, 2 * p]) for n, p in made.named_parameters()}
        together = vmap(lambda p: functional_call(made, p, (x,)))(weights)
        assert torch.allclose(together[0], made(x), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(sparsemax, entmax.sparsemax), (entmax15, entmax.entmax15)], ids=["1", "1.5"]
)
def test_sparse_maps_and_their_gradients_are_those_of_the_package(ours, theirs, scale, dtype):
    z = (scale * torch.randn(50, 9, dtype=torch.float64, generator=rng(5))).to(dtype)
    z[:10, 3] = z[:10, 5]  # ties
    weight = torch.randn(50, 9, dtype=torch.float64, generator=rng(6)).to(dtype)
    a, b = z.clone().requires_grad_(), z.clone().double().requires_grad_()
    one, other = ours(a), theirs(b, dim=-1)
    close = 10 * torch.finfo(dtype).eps ** (0.5 if dtype == torch.float64 else 0.75)
    assert torch.allclose(one.double(), other, atol=close)
    assert torch.allclose(one.sum(-1), torch.ones((), dtype=dtype), atol=8 * torch.finfo(dtype).eps)
    (first,) = torch.autograd.grad((one * weight).sum(), a)
    (second,) = torch.autograd.grad((other * weight.double()).sum(), b)
    same = ((one > 0) == (other > 0)).all(-1)  # at the very kink the two may round to different sides
    assert same.double().mean() > 0.9
    assert torch.allclose(first[same].double(), second[same], atol=1e-3 if dtype == torch.float32 else 1e-6)


def test_one_more_zero_logit_is_torchs_zero_attention():
    made, x = layer("off by one"), tokens()
    theirs = torch.nn.MultiheadAttention(DIM, HEADS, add_zero_attn=True, batch_first=True).double()
    with torch.no_grad():
        for ours, name in ((made.qkv, "in_proj_"), (made.out, "out_proj.")):
            theirs.get_parameter(name + "weight").copy_(ours.weight)
            theirs.get_parameter(name + "bias").copy_(ours.bias)
    assert torch.allclose(made(x), theirs(x, x, x, need_weights=False)[0], atol=1e-12)


SLOPES = {"softmax": 0.5, "sparsemax": 1.0, "entmax": 1.0, "relu": 1 / TOKENS, "off by one": 0.5}


@pytest.mark.parametrize(("name", "bound"), SLOPES.items())
def test_the_slope_of_a_map_in_its_scores_is_what_its_docstring_says(name, bound):
    made = MECHANISMS[name](1, 1, layer=0)
    steepest = 0.0
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)  # a query of one: keys are the scores
    for seed, scale in ((s, 10 ** (0.5 * (s % 5) - 1)) for s in range(100)):
        scores = scale * torch.randn(1, 1, TOKENS, 1, dtype=torch.float64, generator=rng(seed))
        jacobian = torch.autograd.functional.jacobian(lambda k: made.weights(one, k).flatten(), scores)
        steepest = max(steepest, torch.linalg.matrix_norm(jacobian.flatten(1), 2).item())
    assert 0.5 * bound < steepest <= bound * (1 + 1e-12)


def steepest_layer(made, count, bound, starts=4, steps=60):
    """Largest spectral norm of a Jacobian that ascent on tokens finds, from starts of several sizes."""
    best = 0.0
    for start in range(starts):
        x = 10 ** (0.7 * start - 1.5) * torch.randn(count, DIM, dtype=torch.float64, generator=rng(start))
        x.requires_grad_()
        u = torch.randn(count, DIM, dtype=torch.float64, generator=rng(9))
        moving = torch.optim.Adam([x], lr=0.05 * float(x.detach().std()))
        for _ in range(steps):
            with torch.enable_grad():
                for _ in range(2):  # power iteration on the Jacobian
                    (back,) = torch.autograd.grad((made(x[None])[0] * u).sum(), x)
                    _, out = torch.autograd.functional.jvp(
                        lambda t: made(t[None])[0], x.detach(), back / back.norm()
                    )
                    u = (out / out.norm()).detach()
                (back,) = torch.autograd.grad((made(x[None])[0] * u).sum(), x, create_graph=True)
                norm = back.norm()
                moving.zero_grad()
                (-norm.log()).backward()
            moving.step()
            best = max(best, norm.item())
    return best


@pytest.mark.parametrize(
    ("name", "options", "tightness"),
    [("l2", {}, 0.02), ("lipsformer", {"tau": 3.0, "eps": 0.5}, 0.05), ("lipsformer", {"eps": 0.01}, 0.005)],
)
@pytest.mark.parametrize("count", [2, 6])
def test_the_bound_of_a_layer_holds_and_is_not_empty(name, options, tightness, count):
    made = layer(name, **options)
    bound = made.mechanism.bound(made, count)
    found = steepest_layer(made, count, bound)
    assert tightness * bound < found <= bound * (1 + 1e-9), found / bound


@pytest.mark.parametrize("count", [2, 5, 17, 65])
def test_the_lemma_under_the_bound_of_l2_attention(count):
    def value(c):  # what bounds the variance of a row: its own token is at distance 0
        weights = np.exp(-np.append(c, 0.0))
        return -(weights[:-1] @ c) / weights.sum()

    found = max(
        -minimize(value, np.full(count - 1, s), bounds=[(0, 50)] * (count - 1)).fun for s in (0.5, 1.0, 3.0)
    )
    root = math.sqrt(count)
    ours = L2Attention.core_bound(count)
    assert found == pytest.approx((ours - root) / (2 * (root + 1)), rel=1e-5)
    assert ours <= root * (4 * found + 1) * (1 + 1e-6)  # Kim et al., Theorem 3.2


def test_dot_products_have_no_bound_and_the_two_do():
    """The layer of each on tokens that grow: softmax's slope grows with them, that of the two stays below its bound."""
    base = torch.randn(6, DIM, dtype=torch.float64, generator=rng(2))

    def slope(made, size):
        x = size * base
        return (
            torch.autograd.functional.jacobian(lambda t: made(t[None])[0], x)
            .reshape(6 * DIM, -1)
            .norm()
            .item()
        )

    torch.manual_seed(0)
    plain = Attention(DIM, HEADS).double()
    assert max(slope(plain, s) for s in (10.0, 20.0, 40.0)) > 3 * slope(plain, 0.1)
    for name in ("l2", "lipsformer"):
        made = layer(name)
        assert all(
            slope(made, s) <= math.sqrt(6 * DIM) * made.mechanism.bound(made, 6)
            for s in (0.1, 1.0, 10.0, 40.0)
        )


def test_bounds_refuse_what_they_do_not_hold_for():
    made = layer("l2", mask("finite and closed"))
    with pytest.raises(ValueError, match="with a bias has no Lipschitz constant"):
        made.mechanism.bound(made, TOKENS)
    for name in ZOO:  # bounds that are proved for softmax are not handed out for what resembles it
        with pytest.raises(ValueError, match="hold for Attention with SoftmaxMechanism only"):
            attention_bound(layer(name), tokens())


@pytest.mark.parametrize("name", ZOO)
def test_in_a_vit_by_name_with_softmax_weights_wherever_both_have_them(name):
    def make(attention):
        torch.manual_seed(0)
        return ViT(**SIZES, attention=attention).eval()

    model, softmax = make(name), make("softmax")
    own = dict(model.named_parameters())
    assert all(torch.equal(own[n], p) for n, p in softmax.named_parameters())
    x = torch.rand(4, 1, 8, 8, generator=rng(2))
    with record() as tape:
        logits = model(x)
    assert [tuple(p.shape) for p in tape.maps] == [(4, 2, 5, 5)] * 2
    with torch.no_grad():
        assert torch.allclose(model(x), logits, atol=1e-5)
    assert not torch.allclose(logits, softmax(x), atol=1e-4)
    mechanisms = [block.attention.mechanism for block in model.blocks]
    assert mechanisms[0] is not mechanisms[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Attention(12, 3, mechanism="sparsemaks"),
            "attention='sparsemaks' is not one of .*'sparsemax'",
        ),
        (
            lambda: ViT(**SIZES, attention="entmax", attention_options={"alpha": 2}),
            "do not fit attention='entmax'",
        ),
        (lambda: ZOO["lipsformer"](1, 1, eps=0.0), "eps=0.0 must be a positive number"),
        (lambda: ZOO["gated"](1, 1, each="token"), "each='token' is not one of"),
    ],
)
def test_bad_words_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_by_name_a_layer_has_the_weights_of_softmax_under_the_same_seed():
    assert set(ZOO_NAMES) == set(ZOO) and set(MECHANISMS) > set(ZOO)
    torch.manual_seed(3)
    softmax = Attention(DIM, HEADS)
    for name in sorted(MECHANISMS):
        if name != "differential":  # takes heads in pairs
            torch.manual_seed(3)
            assert torch.equal(Attention(DIM, HEADS, mechanism=name).qkv.weight, softmax.qkv.weight)


def test_who_does_not_ask_for_the_zoo_does_not_load_it():
    code = (
        "import sys; from faultlines.models import ViT; ViT(image_shape=(1, 4, 4), patch_size=2, classes=2);"
        "assert not [m for m in sys.modules if 'zoo' in m or 'lipschitz_attention' in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert isinstance(ZOO["lipsformer"](1, 1), LipsFormerAttention)
