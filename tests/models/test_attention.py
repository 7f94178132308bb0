from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacrev, jvp, vmap

from faultlines.models import Attention, record


def attention(fused="auto", **options):
    torch.manual_seed(0)
    return Attention(12, 3, fused=fused, **options).double()


@pytest.fixture
def x():
    return torch.randn(4, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fused", ["auto", "always", "never"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_agrees_with_torch(x, fused, qkv_bias):
    ours = attention(fused, qkv_bias=qkv_bias)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias if qkv_bias else torch.zeros(36))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    expected, expected_maps = theirs(x, x, x, average_attn_weights=False)
    assert torch.allclose(ours(x), expected, rtol=0, atol=1e-13)
    with torch.no_grad():
        assert torch.allclose(ours(x), expected, rtol=0, atol=1e-13)
    with record() as tape:
        ours(x)
    assert torch.allclose(tape.maps[0], expected_maps, rtol=0, atol=1e-13)


@pytest.mark.parametrize("grad", [True, False])
def test_explicit_equals_fused_with_gradients(x, grad):
    outputs, gradients = [], []
    for fused in ("auto", "always", "never"):
        z = x.clone().requires_grad_()
        with torch.set_grad_enabled(grad):
            out = attention(fused)(z)
            outputs.append(out.detach())
            if grad:
                gradients.append(torch.autograd.grad((out**3).sum(), z)[0])
    for values in (outputs, gradients):
        for value in values[1:]:
            assert torch.allclose(value, values[0], rtol=1e-12, atol=1e-12)


def test_which_kernel_runs(x, monkeypatch):
    """`auto` fuses exactly where no gradient and no map is asked for."""
    layer, calls = attention(), []
    fused = layer.mechanism.fused
    monkeypatch.setattr(layer.mechanism, "fused", lambda *qkv: calls.append(1) or fused(*qkv))
    layer(x)
    assert not calls
    with torch.no_grad(), record():
        layer(x)
    assert not calls
    with torch.no_grad():
        layer(x)
    assert len(calls) == 1
    layer.fused = "always"
    layer(x)
    assert len(calls) == 2
    layer.fused = "never"
    with torch.no_grad():
        layer(x)
    assert len(calls) == 2


def test_double_backward_under_auto(x):
    layer = attention()
    assert torch.autograd.gradgradcheck(layer, (x[:1, :3].clone().requires_grad_(),))


@pytest.mark.parametrize("grad", [True, False])
def test_jvp_under_auto(x, grad):
    layer = attention()
    tangent = torch.randn_like(x)
    with torch.set_grad_enabled(grad):
        _, ours = jvp(layer, (x,), (tangent,))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    dense = jacrev(layer)(x[:1])
    expected = torch.einsum("btdbse,bse->btd", dense, tangent[:1])
    assert torch.allclose(ours[:1], expected, atol=1e-12)
    assert torch.allclose(dual, ours, atol=1e-12)


def test_vmap_over_weights_without_gradients(x):
    layers = [attention(), attention(qkv_bias=True)]
    nn.init.normal_(layers[1].qkv.weight)
    stacked = {
        k: torch.stack([dict(m.named_parameters())[k] for m in layers])
        for k, _ in layers[0].named_parameters()
    }
    with torch.no_grad():
        together = vmap(lambda p: functional_call(layers[0], p, (x,)))(stacked)
        apart = torch.stack([layer(x) for layer in layers])
    assert torch.allclose(together, apart, atol=1e-12)


def test_permuting_tokens_permutes_the_output(x):
    layer, order = attention(), torch.randperm(7, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 12, "heads": 5}, "heads=5"),
        ({"dim": 12, "heads": 0}, "heads=0"),
        ({"dim": 12, "heads": 3, "fused": "sometimes"}, "fused='sometimes'"),
    ],
)
def test_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        Attention(**arguments)
