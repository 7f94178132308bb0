from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from faultlines.estimators.attribution import raw_attention, rollout
from faultlines.estimators.attribution.attention_maps import gradient_rollout
from faultlines.models import Attention, ViT, record


def recorded(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad(), record() as tape:
        model(x)
    return tape.maps


def test_raw_attention_is_the_row_of_the_class_token(transformer: ViT, x: Tensor) -> None:
    maps = recorded(transformer, x)
    for layer in (0, 1, 2, -1):
        expected = maps[layer].mean(dim=1)[:, 0, 1:].reshape(3, 4, 4)
        assert torch.equal(raw_attention(transformer, x, layer=layer), expected)


def test_a_model_without_a_class_token_averages_its_queries(x: Tensor) -> None:
    model = ViT(image_size=8, patch_size=2, channels=2, classes=5, dim=8, depth=1, heads=2, pool="mean")
    found = raw_attention(model.double(), x, 1)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(3, dtype=x.dtype))
    assert torch.equal(found, recorded(model, x)[0].mean(dim=1).mean(dim=1).reshape(3, 4, 4))


@pytest.mark.parametrize("normalise", [True, False])
def test_rollout_by_loops(normalise: bool, transformer: ViT, x: Tensor) -> None:
    maps = recorded(transformer, x)
    expected = []
    for i in range(3):
        product = torch.eye(17, dtype=x.dtype)
        for layer in maps:
            step = torch.zeros(17, 17, dtype=x.dtype)
            for q in range(17):
                for k in range(17):
                    step[q, k] = sum(float(layer[i, h, q, k]) for h in range(2)) / 2 + (q == k)
                step[q] /= step[q].sum() if normalise else 2
            product = step @ product
        expected.append(product[0, 1:].reshape(4, 4))
    torch.testing.assert_close(rollout(transformer, x, normalise=normalise), torch.stack(expected))


class TwoLayers(nn.Module):
    """Attention maps given, so that the gradient-weighted rollout can be done by hand."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.maps, self.layers = (first, second), nn.ModuleList(Attention(1, 1) for _ in range(2)).double()
        for layer, given in zip(self.layers, self.maps, strict=True):
            layer.mechanism.explicit = lambda q, k, v, given=given: (
                (m := given.expand(len(q), 1, -1, -1) + 0 * (q @ k.mT)) @ v,
                m,
                {},
            )
            for linear in (layer.qkv, layer.out):
                nn.init.ones_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1)[..., None]
        for layer in self.layers:
            tokens = tokens + layer(tokens)
        return tokens[:, 0]


def test_gradient_rollout_by_hand() -> None:
    first = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    second = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
    x = torch.tensor([[[[1.0, 2.0]]], [[[-1.0, 0.5]]]], dtype=torch.float64)
    found = gradient_rollout(TwoLayers(first, second), x, 0, query="cls", grid=(1, 1))
    expected = []
    for t in x.flatten(1):
        after = t + first @ t
        # z = after_0 + second_0 . after, and after_0 = t_0 + first_0 . t
        slope2 = torch.stack([after, torch.zeros(2, dtype=torch.float64)])
        slope1 = torch.outer(torch.tensor([1.0, 0.0], dtype=torch.float64) + second[0], t)
        a1, a2 = (first * slope1).clamp_min(0), (second * slope2).clamp_min(0)
        expected.append((a1 + a2 + a2 @ a1)[0, 1])
    torch.testing.assert_close(found.flatten(), torch.stack(expected))


def test_gradient_rollout_depends_on_the_class_and_the_others_do_not(transformer: ViT, x: Tensor) -> None:
    assert not torch.allclose(gradient_rollout(transformer, x, 0), gradient_rollout(transformer, x, 1))
    for method in (raw_attention, rollout):
        assert torch.equal(method(transformer, x, 0), method(transformer, x, 1))


def test_a_kernel_without_a_derivative_is_not_used(x: Tensor, transformer: ViT) -> None:
    for block in transformer.blocks:
        block.attention.fused = "always"
    x = x.requires_grad_()
    for method in (raw_attention, rollout, gradient_rollout):
        (slope,) = torch.autograd.grad(method(transformer, x, 0, create_graph=True).square().sum(), x)
        assert slope.abs().sum() > 0


def test_entries_of_differential_attention_may_be_negative(x: Tensor) -> None:
    torch.manual_seed(0)
    model = ViT(
        image_size=8, patch_size=2, channels=2, classes=5, dim=8, depth=1, heads=4, attention="differential"
    ).double()
    assert (raw_attention(model, x) < 0).any()
    assert rollout(model, x).shape == (3, 4, 4)


def test_bad_input(transformer: ViT, smooth: nn.Module, x: Tensor) -> None:
    for method in (raw_attention, rollout, gradient_rollout):
        with pytest.raises(ValueError, match="model Sequential recorded no attention map"):
            method(smooth, x, 0)
        with pytest.raises(ValueError, match=r"grid=\(3, 5\) does not hold the 16 patches"):
            method(transformer, x, 0, grid=(3, 5))
        with pytest.raises(ValueError, match=r"query='first' is not one of"):
            method(transformer, x, 0, query="first")
        with pytest.raises(ValueError, match=r"target has the class 5"):
            method(transformer, x, 5)
    with pytest.raises(ValueError, match=r"layer=3 is not in \[-3, 3\)"):
        raw_attention(transformer, x, layer=3)
    for layer in (0.5, True, None):
        with pytest.raises(ValueError, match=f"layer={layer} must be an integer"):
            raw_attention(transformer, x, layer=layer)
    for grid in ((-2, -8), (4.0, 4), (16,), (2, 2, 4), (0, 4), 4, "44"):
        with pytest.raises(ValueError, match=r"grid=.* must be rows and columns of patches, two integers"):
            raw_attention(transformer, x, grid=grid)
    with pytest.raises(ValueError, match="target is None"):
        gradient_rollout(transformer, x, None)
    for method in (raw_attention, rollout, gradient_rollout):
        with pytest.raises(ValueError, match="at least one image"):
            method(transformer, x[:0], torch.zeros(0, dtype=torch.int64))
