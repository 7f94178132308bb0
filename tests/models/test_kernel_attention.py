"""Kernel attention against references written in loops, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call, jvp, vmap

from faultlines.models import Attention, LinearAttention, RBFAttention, SigmoidAttention, ViT, record
from faultlines.models.transformer_blocks import MECHANISMS

DIM, HEADS, TOKENS, BATCH = 12, 3, 5, 2
WIDTH = DIM // HEADS
SIZES = {"image_size": 8, "patch_size": 4, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 2}
CASES = [
    (RBFAttention, {}),
    (RBFAttention, {"sigma": 0.7}),
    (RBFAttention, {"normalise": True, "sigma": 0.7}),
    (LinearAttention, {}),
    (LinearAttention, {"temperature": 0.5}),
    (LinearAttention, {"normalise": True}),
    (SigmoidAttention, {}),
    (SigmoidAttention, {"temperature": 0.4}),
]
KERNELS = {"rbf", "linear", "sigmoid"}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def qkv(tokens=TOKENS):
    return torch.randn(3, BATCH, HEADS, tokens, WIDTH, dtype=torch.float64, generator=rng())


def mask():
    """A bias with finite entries and closed keys, at least one key open in every row."""
    bias = torch.randn(TOKENS, TOKENS, dtype=torch.float64, generator=rng(3))
    return bias.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -math.inf)


def loop_weight(kind, options, q, k, bias):
    """The kernel of one query and one key, before it is divided."""
    d = len(q)
    if kind is RBFAttention:
        sigma = options.get("sigma", d**0.25)
        distance = sum((a - b) ** 2 for a, b in zip(q, k, strict=True))
        return math.exp(-distance / (2 * sigma**2) + bias)
    if kind is LinearAttention:
        features = [[a + 1 if a > 0 else math.exp(a) for a in row] for row in (q, k)]
        return sum(a * b for a, b in zip(*features, strict=True)) * math.exp(bias)
    score = sum(a * b for a, b in zip(q, k, strict=True)) / (options.get("temperature", 1) * math.sqrt(d))
    return 1 / (1 + math.exp(-(score - math.log(TOKENS) + bias)))


def loop_maps(kind, options, q, k, bias):
    maps = torch.zeros(BATCH, HEADS, TOKENS, TOKENS, dtype=torch.float64)
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(TOKENS):
                row = [
                    loop_weight(
                        kind,
                        options,
                        q[b, h, i].tolist(),
                        k[b, h, j].tolist(),
                        0 if bias is None else bias[i, j].item(),
                    )
                    for j in range(TOKENS)
                ]
                if options.get("normalise"):
                    by = sum(row)
                elif kind is LinearAttention:
                    by = options.get("temperature", WIDTH) * TOKENS
                else:
                    by = TOKENS if kind is RBFAttention else 1
                maps[b, h, i] = torch.tensor([weight / by for weight in row], dtype=torch.float64)
    return maps


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_maps_and_outputs_are_the_loops(kind, options, masked):
    q, k, v = qkv()
    bias = mask() if masked else None
    made = kind(HEADS, WIDTH, bias=bias, **options)
    expected = loop_maps(kind, options, q, k, bias)
    output, maps, terms = made.explicit(q, k, v)
    assert torch.allclose(maps, expected, rtol=1e-12, atol=1e-15)
    assert torch.allclose(output, torch.einsum("bhij,bhjd->bhid", expected, v), rtol=1e-12, atol=1e-14)
    assert torch.allclose(made.fused(q, k, v), output, rtol=1e-12, atol=1e-14)
    assert terms == {}


def test_normalised_rbf_is_softmax_with_a_key_bias():
    q, k, _ = qkv()
    maps = RBFAttention(HEADS, WIDTH, normalise=True).weights(q, k)
    scores = (q @ k.mT - k.square().sum(-1)[..., None, :] / 2) / math.sqrt(WIDTH)
    assert torch.allclose(maps, scores.softmax(-1), rtol=1e-12)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_weight_depends_on_its_own_key_unless_rows_are_normalised(kind, options):
    q, k, _ = qkv()
    moved = k.clone()
    moved[..., 2, :] += 1
    change = (
        kind(HEADS, WIDTH, **options).weights(q, moved) - kind(HEADS, WIDTH, **options).weights(q, k)
    ).abs()
    assert (change[..., 2] > 0).all()
    others = change[..., [0, 1, 3, 4]]
    assert (others > 0).all() if options.get("normalise") else (others < 1e-16).all()


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_slope_of_the_rbf_is_bounded_and_the_bound_attained(sigma):
    made = RBFAttention(1, 1, sigma=sigma)
    q = torch.linspace(-6 * sigma, 6 * sigma, 2401, dtype=torch.float64).view(1, 1, -1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(made.weights(q, torch.zeros(1, 1, 1, 1, dtype=torch.float64)).sum(), q)
    bound = math.exp(-0.5) / sigma
    assert bound * (1 - 1e-4) < slope.abs().max() <= bound * (1 + 1e-12)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_second_derivatives_and_transforms(kind, options):
    torch.manual_seed(0)
    layer = Attention(DIM, HEADS, mechanism=kind(HEADS, WIDTH, **options)).double()
    x = torch.randn(BATCH, 3, DIM, dtype=torch.float64, generator=rng(1))
    assert torch.autograd.gradgradcheck(layer, (x[:1].clone().requires_grad_(),))
    tangent = torch.randn_like(x)
    with torch.no_grad():
        _, ours = jvp(layer, (x,), (tangent,))
        h = 1e-6
        assert torch.allclose(ours, (layer(x + h * tangent) - layer(x - h * tangent)) / (2 * h), atol=1e-7)
        weights = {name: torch.stack([p, 2 * p]) for name, p in layer.named_parameters()}
        together = vmap(lambda p: functional_call(layer, p, (x,)))(weights)
        assert torch.allclose(together[0], layer(x), atol=1e-12)


@pytest.mark.parametrize("attention", sorted(KERNELS))
def test_in_a_vit_by_name_with_maps_of_the_common_shape(attention):
    def make(name, **options):
        torch.manual_seed(0)
        return ViT(**SIZES, attention=name, **options).eval()

    model, softmax = make(attention), make("softmax")
    x = torch.rand(4, 1, 8, 8, generator=rng(2))
    for ours, theirs in zip(model.parameters(), softmax.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with record() as tape:
        logits = model(x)
    assert [tuple(p.shape) for p in tape.maps] == [(4, 2, 5, 5)] * 2
    assert all((p > 0).all() for p in tape.maps)
    with torch.no_grad():
        assert torch.allclose(model(x), logits, atol=1e-6)  # what runs without a gradient and without a tape
    assert not torch.allclose(logits, softmax(x), atol=1e-3)


def test_options_reach_every_layer_and_bad_ones_are_named():
    model = ViT(**SIZES, attention="rbf", attention_options={"sigma": 3.0, "normalise": True})
    assert [(b.attention.mechanism.scale, b.attention.mechanism.normalise) for b in model.blocks] == [
        (3.0, True)
    ] * 2
    assert "sigma=3, normalise=True" in repr(model)
    assert set(MECHANISMS) >= KERNELS
    for attention, options, message in (
        ("rbf", {"sigma": 0.0}, "sigma=0.0 must be a positive number"),
        ("rbf", {"temperature": 1.0}, "attention_options={'temperature': 1.0} do not fit attention='rbf'"),
        ("linear", {"temperature": -1}, "temperature=-1 must be a positive number"),
        ("sigmoid", {"temperature": math.nan}, "temperature=nan must be a positive number"),
        ("sigmoid", {"normalise": True}, "do not fit attention='sigmoid'"),
        ("gauss", {}, "attention='gauss' is not one of .*'linear'.*'rbf'.*'sigmoid'.*'softmax'"),
    ):
        with pytest.raises(ValueError, match=message):
            ViT(**SIZES, attention=attention, attention_options=options)
