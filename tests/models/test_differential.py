"""Differential attention against references written in loops, one for each paper's convention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from faultlines.models import Attention, DifferentialAttention, SoftmaxMechanism, ViT, record
from faultlines.models.differential import lambda_init_schedule

DIM, HEADS, TOKENS, BATCH = 24, 6, 5, 3
WIDTH = DIM // HEADS
SIZES = {"image_size": 8, "patch_size": 4, "channels": 3, "classes": 5, "dim": 16, "depth": 3, "heads": 4}


def layer(fused="auto", qkv_bias=True, **options):
    torch.manual_seed(0)
    made = Attention(
        DIM, HEADS, mechanism=DifferentialAttention(HEADS, WIDTH, **options), fused=fused, qkv_bias=qkv_bias
    )
    mechanism = made.mechanism
    with torch.no_grad():  # away from the values that hide mistakes: small lambda vectors, gains of one
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            if getattr(mechanism, name) is not None:
                nn.init.normal_(getattr(mechanism, name), std=0.7)
        if mechanism.norm is not None:
            nn.init.uniform_(mechanism.norm.weight, 0.5, 1.5)
    return made.double()


@pytest.fixture
def x():
    return torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loop_softmax(scores):
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    return [w / sum(weights) for w in weights]


def loop_lambda(m, lambda_init):
    def dot(a, b):
        return sum(u * w for u, w in zip(a.tolist(), b.tolist(), strict=True))

    return math.exp(dot(m.lambda_q1, m.lambda_k1)) - math.exp(dot(m.lambda_q2, m.lambda_k2)) + lambda_init


def loop_reference(made, x, lambda_init, bias=None):
    """Differential attention number by number, as arXiv 2410.05258 writes it.

    Head h has projections of its own, W_Q^h, W_K^h, W_V^h of width 2d; [Q1; Q2] = X W_Q^h. What is concatenated
    over heads is (1 - lambda_init) RMSNorm(head_h).
    """
    m, d, pairs = made.mechanism, WIDTH, HEADS // 2
    w_q, w_k, w_v = made.qkv.weight.detach().reshape(
        3, pairs, 2 * d, DIM
    )  # a row of the layer's weight: an output
    b_q, b_k, b_v = made.qkv.bias.detach().reshape(3, pairs, 2 * d)
    lam, gain = loop_lambda(m, lambda_init), m.norm.weight.tolist()
    out, maps = (
        torch.zeros(len(x), TOKENS, DIM, dtype=torch.float64),
        torch.zeros(len(x), pairs, 2, TOKENS, TOKENS),
    )
    maps = maps.double()
    for b, sample in enumerate(x):
        for h in range(pairs):
            q, k, v = sample @ w_q[h].T + b_q[h], sample @ w_k[h].T + b_k[h], sample @ w_v[h].T + b_v[h]
            for i in range(TOKENS):
                for branch in (0, 1):
                    of = slice(branch * d, (branch + 1) * d)
                    scores = [
                        sum(q[i, of][c].item() * k[j, of][c].item() for c in range(d)) / math.sqrt(d)
                        + (0 if bias is None else bias[i, j].item())
                        for j in range(TOKENS)
                    ]
                    maps[b, h, branch, i] = torch.tensor(loop_softmax(scores), dtype=torch.float64)
                row = [
                    sum(
                        (maps[b, h, 0, i, j] - lam * maps[b, h, 1, i, j]).item() * v[j, c].item()
                        for j in range(TOKENS)
                    )
                    for c in range(2 * d)
                ]
                rms = math.sqrt(sum(value**2 for value in row) / len(row) + 1e-5)
                for c, value in enumerate(row):
                    out[b, i, h * 2 * d + c] = (1 - lambda_init) * value / rms * gain[c]
    return out @ made.out.weight.detach().T + made.out.bias.detach(), maps, lam


def code_reference(made, x, lambda_init):
    """The same in the reshapes of DiffCLIP's code (arXiv 2503.06626): 2 h_eff heads, maps viewed as [h_eff, 2]."""
    m, (b, n, _) = made.mechanism, x.shape
    q, k, v = nn.functional.linear(x, made.qkv.weight, made.qkv.bias).chunk(3, dim=-1)
    q, k = (t.view(b, n, HEADS, WIDTH).transpose(1, 2) for t in (q, k))
    v = v.view(b, n, HEADS // 2, 2 * WIDTH).transpose(1, 2)
    maps = (q * WIDTH**-0.5 @ k.transpose(-1, -2)).softmax(-1).view(b, HEADS // 2, 2, n, n)
    lam = (m.lambda_q1 * m.lambda_k1).sum().exp() - (m.lambda_q2 * m.lambda_k2).sum().exp() + lambda_init
    out = (maps[:, :, 0] - lam * maps[:, :, 1]) @ v
    out = nn.functional.rms_norm(out, (2 * WIDTH,), m.norm.weight, eps=1e-5) * (1 - lambda_init)
    return made.out(out.transpose(1, 2).reshape(b, n, DIM))


@pytest.mark.parametrize("fused", ["never", "always"])
@pytest.mark.parametrize(("lambda_init", "index"), [(0.8, 0), (0.5, 3), ("depth", 0), ("depth", 3)])
def test_agrees_with_the_papers(x, fused, lambda_init, index):
    value = 0.8 - 0.6 * math.exp(-0.3 * index) if lambda_init == "depth" else lambda_init
    made = layer(fused, lambda_init=lambda_init, layer=index)
    expected, maps, lam = loop_reference(made, x, value)
    assert torch.allclose(made(x), expected, rtol=0, atol=1e-12)
    assert torch.allclose(code_reference(made, x, value), expected, rtol=0, atol=1e-12)
    with record() as tape:
        assert torch.allclose(made(x), expected, rtol=0, atol=1e-12)
    (found,) = tape.layers
    assert abs(found.terms["lambda"].item() - lam) < 1e-12
    assert torch.allclose(found.terms["branch1"], maps[:, :, 0], rtol=0, atol=1e-12)
    assert torch.allclose(found.terms["branch2"], maps[:, :, 1], rtol=0, atol=1e-12)
    assert torch.allclose(found.maps, maps[:, :, 0] - lam * maps[:, :, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("fused", ["never", "always"])
def test_causal_bias_reaches_both_branches(x, fused):
    bias = torch.full((TOKENS, TOKENS), -math.inf, dtype=torch.float64).triu(1)
    made = layer(fused, bias=bias)
    expected, _, _ = loop_reference(made, x, 0.8, bias)
    assert torch.allclose(made(x), expected, rtol=0, atol=1e-12)
    later = x.clone()
    later[:, 3:] += 1
    assert torch.allclose(made(later)[:, :3], expected[:, :3], rtol=0, atol=1e-12)


OPTIONS = [
    {},
    {"norm": False},
    {"output_scale": 1.0},
    {"learn_lambda": False},
    {"lambda_init": 0.0, "learn_lambda": False, "output_scale": 0.2},
    {"subtract": False},
    {"subtract": False, "norm": False, "output_scale": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_fused_equals_explicit_with_gradients(x, options):
    outputs, gradients = [], []
    for fused in ("never", "always"):
        made, z = layer(fused, **options), x.clone().requires_grad_()
        out = made(z)
        outputs.append(out.detach())
        gradients.append(torch.autograd.grad((out**3).sum(), [z, *made.parameters()]))
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-11)


def test_switches(x):
    """Each switch does what it says, seen on the layer's output before the projection."""
    outputs = {}
    cases = {
        "all": {},
        "no norm": {"norm": False},
        "no scale": {"output_scale": 1.0},
        "bare": {"norm": False, "output_scale": 1.0},
    }
    for name, options in cases.items():
        made = layer(**options)
        if made.mechanism.norm is not None:
            nn.init.ones_(made.mechanism.norm.weight)
        outputs[name] = made.mechanism.explicit(*made.project(x))[0]
    assert torch.allclose(outputs["all"], 0.2 * outputs["no scale"], rtol=1e-12)
    assert torch.allclose(outputs["no norm"], 0.2 * outputs["bare"], rtol=1e-12)
    bare = outputs["bare"]
    expected = bare / (bare.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(outputs["no scale"], expected, rtol=1e-12)
    rms = outputs["no scale"].square().mean(-1).sqrt()
    assert (rms < 1).all() and (rms > 0.9).all()


def test_lambda_can_be_held(x):
    made = layer(lambda_init=0.3, learn_lambda=False)
    assert not [name for name, _ in made.named_parameters() if "lambda" in name]
    with record() as tape:
        made(x)
    terms = tape.layers[0].terms
    assert terms["lambda"].item() == 0.3
    assert torch.allclose(tape.maps[0], terms["branch1"] - 0.3 * terms["branch2"])
    with record() as tape:
        layer(lambda_init=0.0, learn_lambda=False)(x)
    assert torch.equal(tape.maps[0], tape.layers[0].terms["branch1"])
    assert tape.maps[0].shape[1] == HEADS // 2  # half as many maps as softmax attention


def test_rows_sum_to_one_minus_lambda_and_entries_may_be_negative(x):
    with record() as tape:
        layer()(x)
    terms = tape.layers[0].terms
    assert torch.allclose(tape.maps[0].sum(-1), (1 - terms["lambda"]).expand(BATCH, HEADS // 2, TOKENS))
    for name in ("branch1", "branch2"):
        assert (terms[name] > 0).all() and torch.allclose(
            terms[name].sum(-1), torch.ones((), dtype=torch.float64)
        )
    assert (tape.maps[0] < 0).any()


def test_without_subtraction_norm_and_scale_it_is_softmax_attention(x):
    made = layer(subtract=False, norm=False, output_scale=1.0)
    plain = layer(subtract=False, norm=False, output_scale=1.0)
    plain.mechanism = SoftmaxMechanism()
    assert torch.allclose(made(x), plain(x), rtol=0, atol=1e-13)
    tapes = []
    for model in (made, plain):
        with record() as tape:
            model(x)
        tapes.append(tape)
    assert torch.allclose(tapes[0].maps[0], tapes[1].maps[0], rtol=0, atol=1e-14)
    assert not tapes[0].layers[0].terms


def test_double_backward_and_forward_mode(x):
    made, z = layer(), x[:1, :3, :].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(made, (z,))
    tangent = torch.randn_like(z)
    _, ours = torch.func.jvp(made, (z.detach(),), (tangent,))
    dense = torch.func.jacrev(made)(z.detach())
    assert torch.allclose(ours, torch.einsum("btdbse,bse->btd", dense, tangent), atol=1e-12)


def test_vmap_over_weights(x):
    layers = [layer(), layer()]
    with torch.no_grad():
        layers[1].mechanism.lambda_q1 += 1
    stacked = {
        k: torch.stack([dict(m.named_parameters())[k] for m in layers])
        for k, _ in layers[0].named_parameters()
    }
    together = vmap(lambda p: functional_call(layers[0], p, (x,)))(stacked)
    assert torch.allclose(together, torch.stack([m(x) for m in layers]), atol=1e-12)


def vit(**options):
    torch.manual_seed(0)
    return ViT(**SIZES | options)


@pytest.mark.parametrize("options", OPTIONS)
def test_vit_shares_all_weights_that_both_have(options):
    plain, differential = vit(), vit(attention="differential", attention_options=options)
    own, theirs = plain.state_dict(), differential.state_dict()
    assert own.keys() <= theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    extra = theirs.keys() - own.keys()
    assert all(".mechanism." in name for name in extra)
    if not options:
        d = SIZES["dim"] // SIZES["heads"]
        assert sum(theirs[name].numel() for name in extra) == SIZES["depth"] * (4 * d + 2 * d)
        drawn = torch.cat([theirs[name] for name in extra if "lambda" in name])
        assert len(drawn.unique()) == len(drawn)  # every layer has its own


def test_vit_learns_every_parameter():
    model, x = (
        vit(attention="differential"),
        torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    assert model(x).shape == (4, 5)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_vit_takes_the_schedule_by_depth():
    blocks = vit(attention="differential", attention_options={"lambda_init": "depth"}).blocks
    inits = [block.attention.mechanism.lambda_init for block in blocks]
    assert inits == pytest.approx([0.2, 0.8 - 0.6 * math.exp(-0.3), 0.8 - 0.6 * math.exp(-0.6)])
    assert [lambda_init_schedule(layer) for layer in range(3)] == inits
    assert [block.attention.mechanism.output_scale for block in blocks] == pytest.approx(
        [1 - v for v in inits]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DifferentialAttention(3, 4), "heads=3"),
        (lambda: DifferentialAttention(0, 4), "heads=0"),
        (lambda: DifferentialAttention(2, 0), "head_dim=0"),
        (lambda: DifferentialAttention(2, 4, lambda_init="deep"), "lambda_init='deep'"),
        (lambda: DifferentialAttention(2, 4, lambda_init=math.nan), "lambda_init=nan"),
        (lambda: DifferentialAttention(2, 4, output_scale=math.inf), "output_scale=inf"),
        (lambda: lambda_init_schedule(-1), "layer=-1"),
        (lambda: vit(heads=1, attention="differential"), "heads=1"),
        (lambda: vit(attention="difference"), "attention='difference'"),
        (lambda: vit(attention="differential", attention_options={"lamda": 1}), "attention_options=.*lamda"),
        (lambda: vit(attention_options={"norm": False}), "attention='softmax'"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
