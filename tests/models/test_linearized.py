from __future__ import annotations

import pytest
import torch

from faultlines.models import (
    LinearisedTwoLayer,
    Representation,
    TwoLayerReLU,
    linear_attention,
    qkv_attention,
    random_qkv,
    softmax_attention,
    stacked_attention,
    truncated_attention,
)
from faultlines.models.linearized import QKV, unit_rows


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "t", "d"), [(9, 4, 3), (3, 5, 7)])
def test_linear_attention_is_the_product(n, t, d):
    x, reference = rows(t, d), rows(n, d, seed=1)
    torch.testing.assert_close(linear_attention(x, reference), x @ reference.T @ reference)
    torch.testing.assert_close(linear_attention(x), x @ x.T @ x)


def test_linear_attention_forms_no_gram_matrix():
    tall = rows(1, 2).expand(3_000_000, 2)  # its Gram matrix would take 72 TB
    assert linear_attention(tall).shape == tall.shape


def test_kernel_of_attention_is_the_gram_matrix_cubed():
    x = rows(6, 4)
    attended, gram = linear_attention(x), x @ x.T
    torch.testing.assert_close(attended @ attended.T, gram @ gram @ gram)


@pytest.mark.parametrize(("keys", "power"), [("input", 5), ("output", 9)])
def test_two_layers(keys, power):
    x = unit_rows(rows(6, 4))
    stacked = stacked_attention(x, layers=2, keys=keys)
    expected = torch.linalg.matrix_power(x @ x.T, power)
    torch.testing.assert_close(stacked @ stacked.T, expected)


def test_stack_attends_to_its_reference():
    x, reference = rows(2, 4), rows(6, 4, seed=1)
    for keys in ("input", "output"):
        whole = stacked_attention(reference, layers=3, keys=keys)
        torch.testing.assert_close(
            stacked_attention(reference[:2], reference, layers=3, keys=keys), whole[:2]
        )
    torch.testing.assert_close(stacked_attention(x, reference, layers=1), linear_attention(x, reference))


def test_truncated_attention_keeps_the_leading_components():
    x, reference = rows(3, 5), rows(6, 5, seed=1)
    torch.testing.assert_close(
        truncated_attention(x, reference, components=5), linear_attention(x, reference)
    )
    u, s, v = torch.linalg.svd(reference, full_matrices=False)
    kept = (u[:, :2] * s[:2]) @ v[:2]  # the best approximation of rank 2
    torch.testing.assert_close(truncated_attention(reference, components=2), reference @ kept.T @ kept)
    found = torch.linalg.svdvals(truncated_attention(reference, components=2))
    torch.testing.assert_close(found[:2], s[:2] ** 3)
    assert found[2:].max() < 1e-12


def test_softmax_attention_is_linear_to_first_order():
    x, scale = unit_rows(rows(7, 4)), 1e-4
    # softmax(s a) = (1 + s a - s mean a) / n + O(s^2)
    scores = x @ x.T
    expected = (1 + scale * (scores - scores.mean(dim=1, keepdim=True))) / 7 @ x
    torch.testing.assert_close(softmax_attention(x, sharpness=scale), expected, atol=1e-7, rtol=0)


def test_qkv_attention_is_the_product():
    x, weights = rows(7, 4), random_qkv(4, torch.Generator().manual_seed(2))
    q, k, v = (x @ w for w in weights)
    torch.testing.assert_close(qkv_attention(x, weights=weights), q @ k.T @ v)
    assert isinstance(weights, QKV) and float(weights.query.var()) == pytest.approx(1 / 4, rel=1)


@pytest.mark.parametrize("centred", [False, True])
def test_representation(centred):
    images = torch.rand(8, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Representation(linear_attention, centred)(images[:3], images)
    x = images.reshape(8, 6)
    x = x / x.norm(dim=1, keepdim=True)
    if centred:
        x = x - x.mean(dim=0)
        x = x / x.norm(dim=1, keepdim=True)
    expected = x[:3] @ x.T @ x
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_representation_has_gradients_through_the_reference():
    images = torch.rand(
        4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    whole = Representation(linear_attention)
    assert torch.autograd.gradcheck(lambda x: whole(x, x), images)
    frozen = torch.autograd.grad(whole(images, images.detach())[:, 0].sum(), images)[0]
    moving = torch.autograd.grad(whole(images, images)[:, 0].sum(), images)[0]
    assert not torch.allclose(frozen, moving)


def test_antisymmetric_network_starts_at_zero_with_the_kernel_of_its_half():
    net = TwoLayerReLU(
        4, 10, 2, antisymmetric=True, init_scale=0.1, generator=torch.Generator().manual_seed(0)
    )
    assert net(rows(5, 4)).abs().max() < 1e-15
    torch.testing.assert_close(net.weight[:5], net.weight[5:])
    assert set(net.signs.flatten().tolist()) == {-1.0, 1.0}
    assert not net.signs.requires_grad and [n for n, _ in net.named_parameters()] == ["weight"]


def test_network_is_its_formula():
    net, x = TwoLayerReLU(4, 6, generator=torch.Generator().manual_seed(0)), rows(5, 4)
    by_hand = sum(net.signs[0, r] * (x @ net.weight[r]).clamp(min=0) for r in range(6)) / 6**0.5
    torch.testing.assert_close(net(x), by_hand)


def test_linearisation_is_the_taylor_expansion():
    net, x = TwoLayerReLU(4, 6, 3, generator=torch.Generator().manual_seed(0)), rows(5, 4)
    twin, step = LinearisedTwoLayer(net), 0.3 * rows(6, 4, seed=1)
    value, tangent = torch.func.jvp(
        lambda w: torch.func.functional_call(net, {"weight": w}, (x,)), (net.weight.detach(),), (step,)
    )
    with torch.no_grad():
        twin.weight += step
    torch.testing.assert_close(twin(x), value + tangent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unit_rows(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), r"rows \[1\] of x are zero"),
        (lambda: unit_rows(torch.ones(3)), "must be floating"),
        (lambda: unit_rows(torch.tensor([[torch.nan, 1.0]])), "1 values that are not finite"),
        (lambda: stacked_attention(rows(3, 2), layers=0), "layers=0 must be"),
        (lambda: stacked_attention(rows(3, 2), layers=1, keys="all"), "keys='all' is not one of"),
        (
            lambda: truncated_attention(rows(3, 2), components=3),
            "components=3 must be an integer from 1 to 2",
        ),
        (lambda: TwoLayerReLU(3, 5, antisymmetric=True, generator=torch.Generator()), "width=5 must be even"),
        (lambda: TwoLayerReLU(3, 0, generator=torch.Generator()), "width=0 must be at least 1"),
        (
            lambda: TwoLayerReLU(3, 4, init_scale=0, generator=torch.Generator()),
            "init_scale=0 must be above 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
