"""Exact branch Jacobians against finite differences, and the paper's statements on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.estimators.alignment.exact_alignment import alignment_exact

from faultlines.estimators.alignment import combined_norm, sensitivity_ratio, sensitivity_threshold
from faultlines.estimators.alignment.jacobians import branch_jacobians
from faultlines.models import ViT, record

SIZES = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 4}


def vit(seed=0, attention="differential", **options):
    torch.manual_seed(seed)
    model = ViT(**SIZES | options, attention=attention, qk_gain=3.0)
    if attention == "differential":
        for block in model.blocks:
            for vector in list(block.attention.mechanism.parameters(recurse=False)):
                torch.nn.init.normal_(
                    vector, std=0.5
                )  # lambdas of their own, some beyond one, some below zero
    return model.double().eval()


def images(seed=1, n=2, size=4, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("channels", [1, 20])  # fewer and more inputs than map entries: both modes
def test_finite_differences(layer, channels):
    model, x, h = vit(channels=channels), images(n=1, channels=channels)[0], 1e-5
    found = branch_jacobians(model, x, layer=layer)
    where = [(0, 0, 1), (0, 3, 2), (channels - 1, 2, 3)]
    for index in where:
        plus, minus = x.clone(), x.clone()
        plus[index] += h
        minus[index] -= h
        tapes = []
        for point in (plus, minus):
            with torch.no_grad(), record() as tape:
                model(point[None])
            tapes.append(tape.layers[layer])
        column = torch.arange(x.numel()).reshape(x.shape)[index]
        for name, jacobian in (("branch1", found.first), ("branch2", found.second), ("maps", found.combined)):
            up, down = (t.maps[0] if name == "maps" else t.terms[name][0] for t in tapes)
            assert torch.allclose(jacobian[..., column], (up - down) / (2 * h), rtol=1e-5, atol=1e-9)
        assert found.lam == tapes[0].terms["lambda"]


@pytest.mark.parametrize("channels", [1, 20])
def test_memory_changes_no_jacobian(monkeypatch, channels):
    model, x = vit(channels=channels), images(n=1, channels=channels)[0]
    whole = branch_jacobians(model, x, layer=0)
    monkeypatch.setattr("faultlines.estimators.alignment.jacobians.AT_ONCE", 3000)
    pieces = branch_jacobians(model, x, layer=0)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), lambda_init=st.floats(-1.5, 1.5))
def test_lemma_1_and_theorems_2_and_3_on_exact_jacobians(seed, lambda_init):
    model = vit(seed, depth=1, attention_options={"lambda_init": lambda_init})
    base = branch_jacobians(vit(seed, "softmax", depth=1), images(seed, 1)[0]).first.flatten(1).norm(dim=1)
    x = images(seed, 1)
    found, measured = (
        alignment_exact(model, x, 1),
        branch_jacobians(model, x[0]).combined.flatten(1).norm(dim=1),
    )
    cosine, norm1, norm2, lam = found.cosine[0, 0], found.norm1[0, 0], found.norm2[0, 0], found.lam[0]
    assert (cosine.abs() <= 1 + 1e-12).all()
    assert torch.allclose(combined_norm(norm1, norm2, cosine, lam), measured, rtol=1e-10)
    # theorem 1: the two ends enclose every angle
    ends = torch.stack(
        [(1 - found.lambda_rho[0, 0]).abs() * norm1, (1 + found.lambda_rho[0, 0]).abs() * norm1]
    )
    assert (ends.amin(0) * (1 - 1e-12) <= measured).all() and (measured <= ends.amax(0) * (1 + 1e-12)).all()
    gamma, lambda_rho = norm1 / base, found.lambda_rho[0, 0]
    ratio = sensitivity_ratio(gamma, lambda_rho, cosine)
    assert torch.allclose(ratio, measured / base, rtol=1e-10)
    if lam > 1e-6:
        threshold = sensitivity_threshold(gamma, lambda_rho)
        decided = (cosine - threshold).abs() > 1e-9 * (1 + threshold.abs())
        assert torch.equal((measured > base)[decided], (cosine < threshold)[decided])


@pytest.mark.parametrize("sign", [1, -1])
def test_theorem_1_at_its_ends(sign):
    """Two tokens: negated scores turn a row p into 1 - p, and its gradient round."""
    model = vit(depth=1, image_size=4, patch_size=4)
    weight, bias = model.blocks[0].attention.qkv.weight, model.blocks[0].attention.qkv.bias
    with torch.no_grad():
        for values in (weight.unflatten(0, (3, 2, 2, 2)), bias.unflatten(0, (3, 2, 2, 2))):
            values[0, :, 1] = values[0, :, 0]
            values[1, :, 1] = sign * values[1, :, 0]
    x = images(n=1)
    found, jacobians = alignment_exact(model, x, 1), branch_jacobians(model, x[0])
    assert torch.allclose(found.cosine, torch.full_like(found.cosine, sign), rtol=1e-12)
    assert torch.allclose(found.rho, torch.ones_like(found.rho), rtol=1e-12)
    measured = jacobians.combined.flatten(1).norm(dim=1)
    assert torch.allclose(measured, (1 - sign * found.lam[0]).abs() * found.norm1[0, 0], rtol=1e-10)


def test_head_pairs_are_the_control():
    """Standard attention has no branches: the same adjacent heads stand in for them."""
    plain, x = vit(attention="softmax"), images()
    found = alignment_exact(plain, x)
    assert found.lam is None and found.cosine.shape == (2, 2, 2)
    with pytest.raises(ValueError, match="lam is None"):
        _ = found.lambda_rho
    # at equal weights layer 0 of both mechanisms has the same maps, in the same pairs
    same = alignment_exact(vit(), x)
    assert torch.allclose(found.cosine[:, 0], same.cosine[:, 0], rtol=1e-10)
    assert torch.allclose(found.norm2[:, 0], same.norm2[:, 0], rtol=1e-10)
    assert not torch.allclose(found.cosine[:, 1], same.cosine[:, 1], rtol=1e-3)


def test_a_constant_map_has_cosine_zero():
    model = vit(depth=1)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[:16] = 0
        model.blocks[0].attention.qkv.bias[:16] = 0
    found = alignment_exact(model, images(), 1)
    assert (found.norm1 == 0).all() and (found.cosine == 0).all() and not found.opposed.any()


def test_errors():
    with pytest.raises(ValueError, match="layer=2"):
        branch_jacobians(vit(), images()[0], layer=2)
    with pytest.raises(ValueError, match="1 heads"):
        branch_jacobians(vit(attention="softmax", heads=1), images()[0])
