"""Layer-wise gradients against Jacobians stacked by hand, and the ends of Theorem 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.estimators import (
    combined_norm,
    layer_gradients,
    sensitivity_ratio,
    sensitivity_threshold,
    tie_branches,
)  # fmt: skip
from faultlines.estimators.alignment.jacobians import branch_jacobians
from faultlines.models import ViT

SIZES = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 4}


def vit(seed=0, **options):
    torch.manual_seed(seed)
    return ViT(**SIZES | options, qk_gain=3.0).double().eval()


def images(n=2):
    return torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_differential_layer_is_its_stacked_pairs():
    model, x = vit(attention="differential"), images()
    found = layer_gradients(model, x)
    for b in range(2):
        for layer in range(2):
            j = branch_jacobians(model, x[b], layer=layer)
            stack = (j.first - j.lam * j.second).reshape(-1, 16)  # 2 pairs x 25 entries
            assert torch.allclose(found.frobenius[b, layer], stack.norm() / 2**0.5)
            assert torch.allclose(found.spectral[b, layer], torch.linalg.matrix_norm(stack, 2) / 2**0.5)
            cosine = (j.first * j.second).sum() / j.first.norm() / j.second.norm()
            assert torch.allclose(found.branches.cosine[b, layer], cosine)
            assert torch.allclose(found.branches.norm1[b, layer], j.first.norm() / 2**0.5)
    again = combined_norm(
        found.branches.norm1, found.branches.norm2, found.branches.cosine, found.branches.lam
    )
    assert torch.allclose(again, found.frobenius)
    assert (found.spectral <= found.triangle + 1e-12).all()
    assert (found.spectral <= found.frobenius + 1e-12).all()


def test_standard_layer_is_its_stacked_heads():
    model, x = vit(), images()
    found = layer_gradients(model, x)
    assert found.branches is None and found.triangle is None
    j = branch_jacobians(model, x[1], layer=1)
    stack = torch.cat([j.first, j.second]).reshape(-1, 16)
    assert torch.allclose(found.frobenius[1, 1], stack.norm() / 2)
    assert torch.allclose(found.spectral[1, 1], torch.linalg.matrix_norm(stack, 2) / 2)


def test_theorem_3_decides_between_two_networks():
    differential, standard, x = vit(attention="differential"), vit(seed=1), images()
    ours, base = layer_gradients(differential, x), layer_gradients(standard, x)
    gamma = ours.branches.norm1 / base.frobenius
    ratio = ours.frobenius / base.frobenius
    lambda_rho, cosine = ours.branches.lambda_rho, ours.branches.cosine
    assert torch.allclose(sensitivity_ratio(gamma, lambda_rho, cosine), ratio)
    assert torch.equal(ratio > 1, cosine < sensitivity_threshold(gamma, lambda_rho))


def test_a_model_without_attention():
    with pytest.raises(ValueError, match="records no attention layer"):
        layer_gradients(nn.Flatten(), images())


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_tied_branches_are_at_the_ends(sign, qkv_bias):
    model = vit(image_size=4, patch_size=4, attention="differential", qkv_bias=qkv_bias)  # two tokens
    found = layer_gradients(tie_branches(model, sign), images())
    assert torch.allclose(found.branches.cosine[:, 0], torch.full((2,), float(sign)).double(), atol=1e-12)
    assert torch.allclose(found.branches.rho, torch.ones(2, 2).double(), atol=1e-9)
    lam = found.branches.lam
    assert torch.allclose(found.frobenius, (1 - sign * lam).abs() * found.branches.norm1)


def test_only_the_second_branch_is_tied():
    model, other = vit(attention="differential"), vit(attention="differential")
    tie_branches(model, -1)
    before, after = (m.blocks[0].attention.qkv.weight.unflatten(0, (3, 4, 2)) for m in (other, model))
    assert torch.equal(before[:, ::2], after[:, ::2])  # the first branches
    assert torch.equal(before[2], after[2])  # the values
    assert torch.equal(after[1, 1::2], -after[1, ::2]) and torch.equal(after[0, 1::2], after[0, ::2])


@pytest.mark.parametrize("sign", [0, 2, "+"])
def test_bad_sign(sign):
    with pytest.raises(ValueError, match="sign="):
        tie_branches(vit(attention="differential"), sign)


@pytest.mark.parametrize(
    "options", [{}, {"attention": "differential", "attention_options": {"subtract": False}}]
)
def test_no_branches(options):
    with pytest.raises(ValueError, match="without branches"):
        tie_branches(vit(**options), 1)
