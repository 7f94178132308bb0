"""A user's own attention: as a mechanism by factory, module or function, and as a whole layer that is recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.models import (
    CLIP,
    CNN,
    MLP,
    Attention,
    DifferentialAttention,
    ImageTower,
    LinearAttention,
    MapMechanism,
    RBFAttention,
    SigmoidAttention,
    SmallCNN,
    SoftmaxMechanism,
    TextTower,
    ViT,
    record,
    record_attention,
)
from faultlines.models.linearized import unit_rows
from faultlines.models.transformer_blocks import MECHANISMS
from faultlines.training import JaSMin, jasmin

SIZES = {"image_size": 8, "patch_size": 4, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 2}
X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def vit(attention="softmax", **options):
    torch.manual_seed(0)
    return ViT(**SIZES, attention=attention, **options)


def plain(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def with_map(q, k, v):
    maps = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return maps @ v, maps


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, q, k, v):
        return with_map(self.gain * q, k, v)


class Mine(MapMechanism):
    def weights(self, q, k):
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)


GIVEN = {
    "a factory of a mechanism": lambda heads, head_dim: SoftmaxMechanism(),
    "a class that takes a layer": lambda heads, head_dim, *, layer: Mine(),
    "a factory of a function": lambda heads, head_dim: with_map,
    "a factory of a function without a map": lambda heads, head_dim, **_: plain,
    "a module": Module(),
    "a mechanism": Mine(),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_vit_takes_a_factory_or_a_module(given, pool):
    ours, theirs = vit(given, pool=pool), vit(pool=pool)
    assert torch.allclose(ours(X), theirs(X), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(ours(X), theirs(X), atol=1e-6)
    mechanisms = [block.attention.mechanism for block in ours.blocks]
    assert mechanisms[0] is not mechanisms[1] and given not in mechanisms
    with record() as tape:
        ours(X)
    with record() as reference:
        theirs(X)
    if "without a map" not in next(name for name, value in GIVEN.items() if value is given):
        for p, q in zip(tape.maps, reference.maps, strict=True):
            assert torch.allclose(p, q, atol=1e-6)
    else:
        assert tape.maps == []


def test_a_module_is_trained_in_every_layer_by_itself():
    model = vit(Module())
    model(X).sum().backward()
    gains = [block.attention.mechanism.gain for block in model.blocks]
    assert gains[0] is not gains[1] and all(gain.grad is not None for gain in gains)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attention": "gauss"}, "'gauss' is not one of"),
        ({"attention": 3}, "attention=3 is not one of"),
        ({"attention": Module(), "attention_options": {"a": 1}}, "give a factory"),
        ({"attention": lambda heads: Mine()}, "do not fit attention='<lambda>'"),
        ({"attention": lambda heads, head_dim: 3}, "3 is no mechanism"),
    ],
)
def test_what_is_no_attention_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        vit(**arguments)


def test_a_causal_tower_refuses_a_mechanism_without_a_bias():
    sizes = {"embed_dim": 6, "dim": 8, "depth": 1, "heads": 2}
    towers = ImageTower(image_size=8, patch_size=4, **sizes), TextTower(vocabulary=9, context=4, **sizes)
    with pytest.raises(ValueError, match="bias"):
        CLIP(*towers, attention=lambda heads, head_dim: Mine())
    CLIP(*towers, attention=lambda heads, head_dim: Mine(), towers=("image",))
    CLIP(*towers, attention=lambda heads, head_dim, bias=None: SoftmaxMechanism(bias))


@pytest.mark.parametrize("name", sorted(MECHANISMS))
def test_every_mechanism_is_called_on_queries_keys_and_values(name):
    q, k, v = torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    made = MECHANISMS[name](4, 6, layer=0)
    assert torch.equal(made(q, k, v), made.explicit(q, k, v)[0])
    assert torch.allclose(made(q, k, v), made.fused(q, k, v), atol=1e-6)


class Layer(nn.Module):
    """A whole attention layer of someone else's."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        out, maps = self.inner(x, x, x, average_attn_weights=False)
        record_attention(maps, inputs=x)
        return out


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_whole_layer_can_be_replaced_and_is_recorded(pool):
    model = vit(pool=pool)
    for block in model.blocks:
        block.attention = Layer()
    with record() as tape:
        logits = model(X)
    assert torch.allclose(logits, model(X), atol=1e-6)
    assert [tuple(p.shape) for p in tape.maps] == [(4, 2, 4 + (pool == "cls"), 4 + (pool == "cls"))] * 2
    assert tape.layers[0].inputs.shape[-1] == 8 and tape.layers[0].terms == {}
    with pytest.raises(AttributeError, match="recorded no q: give it"):
        tape.layers[0].q  # noqa: B018
    assert not hasattr(tape.layers[0], "v")


def test_jasmin_is_computed_and_trained_on_an_attention_of_ones_own():
    model = vit()
    for block in model.blocks:
        block.attention = Layer()
    loss, terms = JaSMin(0.1, k=0)(model, X, torch.tensor([0, 1, 2, 0]))
    with record() as tape:
        model(X)
    assert torch.allclose(terms["jasmin"], jasmin(tape.maps, 0))
    gradients = torch.autograd.grad(terms["jasmin"], [b.attention.inner.in_proj_weight for b in model.blocks])
    assert loss.isfinite() and all(g.abs().max() > 0 for g in gradients)


def test_a_map_of_another_shape_is_refused():
    with record(), pytest.raises(ValueError, match=r"maps has shape \(2, 3\)"):
        record_attention(torch.rand(2, 3))
    record_attention(torch.rand(2, 3))  # nobody looks


NUMPY = {
    "vit": lambda: vit()(np.zeros((1, 1, 8, 8), np.float32)),
    "mlp": lambda: MLP(image_shape=(1, 2, 2), classes=2)(np.zeros((1, 1, 2, 2))),
    "cnn": lambda: CNN(image_shape=(1, 8, 8), classes=2)(np.zeros((1, 1, 8, 8))),
    "small cnn": lambda: SmallCNN(classes=2)(np.zeros((1, 3, 32, 32))),
    "attention": lambda: Attention(8, 2)(np.zeros((1, 3, 8))),
    "text": lambda: TextTower(vocabulary=9, context=4, embed_dim=6, dim=8, depth=1, heads=2)(
        np.zeros((1, 4))
    ),
    "rows": lambda: unit_rows(np.ones((2, 3))),
}


@pytest.mark.parametrize("call", NUMPY.values(), ids=NUMPY)
def test_numpy_is_one_clear_line(call):
    with pytest.raises(ValueError, match=r"is a numpy.ndarray, a torch.Tensor is needed: torch.from_numpy"):
        call()


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_hook_sees_all_tokens_of_the_last_block(kind, everywhere):
    model, seen = vit(), []

    def hook(module, *values):
        if module is model.blocks[-1].mlp:
            seen.append(values[0][0].shape[1] if isinstance(values[0], tuple) else values[0].shape[1])

    if everywhere:
        register = getattr(torch.nn.modules.module, f"register_module_{kind}_hook")
        handle = register(hook)
    else:
        handle = getattr(model.blocks[-1].mlp, f"register_{kind}_hook")(hook)
    try:
        model(X.requires_grad_()).sum().backward()
    finally:
        handle.remove()
        X.requires_grad_(False)
    assert seen == [5]


BIASED = {
    "softmax": SoftmaxMechanism,
    "differential": lambda bias: DifferentialAttention(2, 4, bias=bias),
    "differential, apart": lambda bias: DifferentialAttention(2, 4, subtract=False, bias=bias),
    "rbf": lambda bias: RBFAttention(2, 4, bias=bias),
    "rbf, normalised": lambda bias: RBFAttention(2, 4, normalise=True, bias=bias),
    "linear": lambda bias: LinearAttention(2, 4, bias=bias),
    "linear, normalised": lambda bias: LinearAttention(2, 4, normalise=True, bias=bias),
    "sigmoid": lambda bias: SigmoidAttention(2, 4, bias=bias),
}


@pytest.mark.parametrize("make", BIASED.values(), ids=BIASED)
def test_a_row_without_an_open_key_is_zero_and_so_are_its_gradients(make):
    bias = torch.zeros(3, 3).triu(1).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    bias[1] = -math.inf
    free = bias.clone()
    free[1] = 0
    qkv = [t.requires_grad_() for t in torch.randn(3, 1, 2, 3, 4, generator=torch.Generator().manual_seed(2))]
    made = make(bias)
    output, maps, _ = made.explicit(*qkv)
    assert torch.equal(maps[:, :, 1], torch.zeros_like(maps[:, :, 1]))
    others = make(free)
    for name, value in made.named_parameters():
        dict(others.named_parameters())[name].data = value.data
    assert torch.allclose(maps[:, :, [0, 2]], others.explicit(*qkv)[1][:, :, [0, 2]], atol=1e-7)
    with torch.no_grad():
        assert torch.allclose(made.fused(*qkv), output, atol=1e-6)
    gradients = torch.autograd.grad(output.square().sum(), qkv, create_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), qkv)
    assert all(g.isfinite().all() for g in second)
    assert torch.equal(gradients[0][:, :, 1], torch.zeros_like(gradients[0][:, :, 1]))
