from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from faultlines.estimators.alignment import alignment_losspath
from faultlines.estimators.alignment.jacobians import branch_jacobians
from faultlines.models import ViT
from faultlines.models.differential import join_pairs

SIZES = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 4}


def vit(attention="differential"):
    torch.manual_seed(0)
    return ViT(**SIZES, attention=attention, qk_gain=3.0).double().eval()


def added_to_the_difference(mechanism, maps, addend, v):
    return mechanism._finish((maps + addend) @ join_pairs(v))


def added_to_both_heads(mechanism, maps, addend, v):
    """Put it into the maps of heads 2h and 2h + 1 alike."""
    return (maps + addend.repeat_interleave(2, dim=1)) @ v


ADDED = {"differential": added_to_the_difference, "softmax": added_to_both_heads}


def signal(model, x, y, layer, attention="differential"):
    """Return the loss' gradient in an addend to a pair's maps, which the library does not put there."""
    mechanism = model.blocks[layer].attention.mechanism
    explicit, addend = mechanism.explicit, torch.zeros(len(x), 2, 5, 5, dtype=x.dtype, requires_grad=True)

    def shifted(q, k, v):
        _, maps, terms = explicit(q, k, v)
        return ADDED[attention](mechanism, maps, addend, v), maps, terms

    mechanism.explicit = shifted
    try:
        loss = F.cross_entropy(model(x), y, reduction="sum")
    finally:
        del mechanism.explicit
    return torch.autograd.grad(loss, addend)[0]


def along(upstream, *jacobians):
    """Return the gradient in the layer's input through each map."""
    return tuple(torch.einsum("hijx,hij->x", jacobian, upstream) for jacobian in jacobians)


@pytest.mark.parametrize("attention", ADDED)
def test_against_exact_jacobians(attention):
    """Head pairs of standard attention are the control of the two branches."""
    model, y = vit(attention), torch.tensor([0, 1, 2, 0])
    x = torch.rand(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = alignment_losspath(model, x, y)
    assert found.cosine.shape == (4, 2)
    assert (found.lam is None) == (attention == "softmax")
    for layer in (0, 1):
        upstream = signal(model, x, y, layer, attention)
        for sample in range(4):
            jacobians = branch_jacobians(model, x[sample], layer=layer)
            g1, g2 = along(upstream[sample], jacobians.first, jacobians.second)
            assert torch.allclose(found.cosine[sample, layer], F.cosine_similarity(g1, g2, dim=0), rtol=1e-9)
            assert torch.allclose(found.norm1[sample, layer], g1.norm(), rtol=1e-9)
            assert torch.allclose(found.norm2[sample, layer], g2.norm(), rtol=1e-9)


def test_the_factor_minus_lambda_is_left_out():
    """The gradient through the map is g1 - lambda g2: opposed branches make it longer."""
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.zeros(3).long()
    model = vit()
    found = alignment_losspath(model, x, y)
    assert (found.lam > 0).all()
    upstream = signal(model, x[:1], y[:1], 1)
    jacobians = branch_jacobians(model, x[0], layer=1)
    total, g1, g2 = along(upstream[0], jacobians.combined, jacobians.first, jacobians.second)
    assert torch.allclose(total, g1 - found.lam[1] * g2, rtol=1e-9, atol=1e-14)
    assert bool(found.opposed[0, 1]) == bool(
        total.norm() ** 2 > g1.norm() ** 2 + (found.lam[1] * g2.norm()) ** 2
    )


def test_equal_heads_are_aligned():
    model = vit("softmax")
    with torch.no_grad():
        for block in model.blocks:
            for value in (block.attention.qkv.weight, block.attention.qkv.bias):
                heads = value.unflatten(0, (3, 2, 2, -1))  # [qkv, pair, head of the pair, ...]
                heads[:2, :, 1] = heads[:2, :, 0]
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = alignment_losspath(model, x, torch.zeros(3).long())
    assert torch.allclose(found.cosine, torch.ones(3, 2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.rho, torch.ones(3, 2, dtype=torch.float64), atol=1e-9)


def test_other_losses_and_errors():
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    margin = alignment_losspath(
        vit(), x, torch.zeros(2).long(), loss=lambda z, y: z[:, 1] - z.gather(1, y[:, None])[:, 0]
    )
    assert margin.cosine.shape == (2, 2) and not margin.cosine.requires_grad
    with pytest.raises(ValueError, match="layer has 1 heads; pairs need an even number"):
        alignment_losspath(ViT(**{**SIZES, "heads": 1}).double(), x, torch.zeros(2).long())
    with pytest.raises(ValueError, match="records no attention"):
        alignment_losspath(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3).double()), x, torch.zeros(2).long()
        )
