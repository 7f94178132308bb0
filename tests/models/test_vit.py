from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.models import SoftmaxMechanism, ViT, record

SIZES = {"image_size": 8, "patch_size": 4, "channels": 3, "classes": 5, "dim": 8, "depth": 2, "heads": 2}


def vit(**options):
    torch.manual_seed(0)
    return ViT(**SIZES | options)


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("mlp_ratio", [0, 2.0])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_shapes(x, pool, mlp_ratio, qkv_bias):
    model = vit(pool=pool, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias)
    assert model(x).shape == (4, 5)
    assert model(x[:1]).shape == (1, 5)
    assert model.tokens(x).shape == (4, 4 + (pool == "cls"), 8)
    assert any("mlp" in name for name, _ in model.named_parameters()) == bool(mlp_ratio)
    assert (model.blocks[0].attention.qkv.bias is None) != qkv_bias
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_tokens_are_patches_in_reading_order(x):
    model = vit(pool="mean", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    normal = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    for i, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        patch = normal[:, :, row : row + 4, column : column + 4].flatten(1)
        expected = patch @ model.patch.weight.flatten(1).T + model.patch.bias + model.position[0, i]
        assert torch.allclose(model.tokens(x)[:, i], expected, atol=1e-5)


def test_normalisation_is_inside(x):
    plain, scaled = vit(mean=0.0, std=1.0), vit(mean=0.5, std=0.25)
    assert torch.allclose(scaled(x), plain((x - 0.5) / 0.25), atol=1e-5)


def test_qk_gain_scales_queries_and_keys_only():
    plain, peaked = vit(), vit(qk_gain=3.0)
    for one, two in zip(plain.blocks, peaked.blocks, strict=True):
        assert torch.allclose(two.attention.qkv.weight[:16], 3 * one.attention.qkv.weight[:16])
        assert torch.equal(two.attention.qkv.weight[16:], one.attention.qkv.weight[16:])
    for (name, one), two in zip(plain.named_parameters(), peaked.parameters(), strict=True):
        assert "attention.qkv.weight" in name or torch.equal(one, two)


def test_without_positions_mean_pooling_forgets_the_order_of_patches(x):
    model = vit(pool="mean")
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=-1)
    assert not torch.allclose(model(x), model(swapped), atol=1e-4)
    torch.nn.init.zeros_(model.position)
    assert torch.allclose(model(x), model(swapped), atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_blocks_are_permutation_equivariant(x, pool):
    model, order = vit(pool=pool), [2, 0, 3, 1]
    tokens = model.tokens(x)[:, :4]
    assert torch.allclose(model.blocks(tokens[:, order]), model.blocks(tokens)[:, order], atol=1e-5)


def test_same_seed_same_weights_and_state_survives_a_round_trip(x):
    model, again = vit(), vit()
    assert torch.equal(model(x), again(x))
    other = ViT(**SIZES, mean=0.1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 3}, "patch_size=3"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"attention": "gauss"}, "attention='gauss'"),
        ({"pool": "max"}, "pool='max'"),
        ({"heads": 3}, "heads=3"),
        ({"fused": "yes"}, "fused='yes'"),
        ({"mean": (0.1, 0.2)}, "mean="),
        ({"std": 0.0}, "std="),
        ({"classes": 0}, "classes=0"),
        ({"depth": -1}, "depth=-1"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        vit(**options)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 9), (3, 8, 8)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match="this model takes"):
        vit()(torch.rand(shape))


MECHANISMS = ["softmax", "differential", "rbf", "linear", "sigmoid"]


@pytest.mark.parametrize("attention", MECHANISMS)
@pytest.mark.parametrize("fused", ["never", "always"])
def test_the_last_block_asks_for_the_class_token_alone_and_nothing_changes(x, attention, fused):
    model, x = vit(attention=attention, fused=fused).double(), x.double()

    def derivatives(full):
        z = x.clone().requires_grad_()
        if full:
            with record():  # who looks at maps sees all tokens
                logits = model(z)
        else:
            logits = model(z)
        loss = logits.log_softmax(1)[:, 0].sum()
        slopes = torch.autograd.grad(
            loss, [z, *model.parameters()], create_graph=not full or fused == "never"
        )
        if fused == "always":  # no second derivative
            return logits, *slopes
        return logits, *slopes, *torch.autograd.grad(slopes[0].square().sum(), [z, model.patch.weight])

    for short, whole in zip(derivatives(full=False), derivatives(full=True), strict=True):
        assert torch.allclose(short, whole, rtol=1e-10, atol=1e-12)


def test_only_the_class_token_asks_in_the_last_block(x, monkeypatch):
    model, asked = vit(), []
    for block in model.blocks:
        explicit = block.attention.mechanism.explicit

        def counted(q, k, v, explicit=explicit):
            asked.append((q.shape[2], k.shape[2]))
            return explicit(q, k, v)

        monkeypatch.setattr(block.attention.mechanism, "explicit", counted)
    model(x)
    assert asked == [(5, 5), (1, 5)]


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "bias", "module"])
def test_who_needs_all_tokens_of_the_last_block_gets_them(x, kind):
    model, seen = vit(), []
    expected = model(x)
    last = model.blocks[-1]
    if kind == "hook":
        last.norm2.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    elif kind == "pre-hook":
        last.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    elif kind == "bias":
        last.attention.mechanism = SoftmaxMechanism(torch.zeros(5, 5))
        seen.append(5)
    else:
        model.blocks[-1] = nn.Sequential(last)
        seen.append(5)
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert seen == [5]


def test_a_shape_says_what_channels_and_size_say():
    options = {"patch_size": 4, "classes": 3, "dim": 8, "depth": 1, "heads": 2}
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    by_shape = ViT(image_shape=(3, 8, 8), **options)
    torch.manual_seed(0)
    by_size = ViT(image_size=8, channels=3, **options)
    assert torch.equal(by_shape(x), by_size(x))
    wide = ViT(image_shape=(1, 8, 16), **options)
    assert wide(torch.rand(2, 1, 8, 16)).shape == (2, 3) and wide.position.shape[1] == 2 * 4 + 1


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"image_size": 8},
        {"channels": 3},
        {"image_shape": (3, 8, 8), "channels": 3},
        {"image_shape": (3, 8)},
        {"image_shape": (3, 8, 10)},
    ],
)
def test_a_shape_and_its_parts_do_not_mix(given):
    with pytest.raises(ValueError, match="image_shape"):
        ViT(patch_size=4, classes=3, dim=8, depth=1, heads=2, **given)
