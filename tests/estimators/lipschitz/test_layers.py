from __future__ import annotations

import pytest
import torch

from faultlines.estimators.lipschitz import jacobian_norm, layer_lipschitz, local_lipschitz
from faultlines.estimators.lipschitz.local import READINGS, read_layer
from faultlines.models import ViT, record

SIZES = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 3, "heads": 4}
BUDGET = {"directions": 4, "ascent_steps": 6}


def vit(attention):
    torch.manual_seed(0)
    return ViT(**SIZES, attention=attention, qk_gain=2.0).double().eval()


@pytest.fixture
def x():
    return torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["softmax", "differential"])
def test_readings_are_those_of_the_whole_network(x, attention):
    """The truncated networks against hooks and the tape on a full forward pass."""
    model, seen = vit(attention), {}
    for layer, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, i, out, layer=layer: seen.update({("block", layer): out}))
        block.attention.register_forward_hook(
            lambda m, i, out, layer=layer: seen.update({("attention", layer): out})
        )
    with record() as tape:
        logits = model(x)
    expected = dict(seen)
    for layer in range(3):
        heads = 4 if attention == "softmax" else 2
        assert torch.allclose(read_layer(model, x, layer, "map"), tape.maps[layer] / heads**0.5)
        for reading in ("block", "attention"):
            assert torch.allclose(read_layer(model, x, layer, reading), expected[reading, layer])
    assert torch.equal(read_layer(model, x, 0, "logits"), logits)


def test_same_directions_and_budget_for_all(x):
    model = vit("differential")
    found = layer_lipschitz(model, x, 0.1, readings=READINGS, seed=3, **BUDGET)
    assert list(found) == list(READINGS)
    for reading in READINGS:
        for layer in range(3):
            one = local_lipschitz(
                lambda z, layer=layer, reading=reading: read_layer(model, z, layer, reading),
                x,
                0.1,
                generator=torch.Generator().manual_seed(3),
                **BUDGET,
            )
            bounds = (
                found[reading]
                if reading == "logits"
                else found[reading]._replace(
                    random=found[reading].random[:, layer], ascent=found[reading].ascent[:, layer]
                )
            )
            assert torch.equal(bounds.random, one.random) and torch.equal(bounds.ascent, one.ascent)
            assert (bounds.ascent >= bounds.random).all()


def test_small_radius_stays_below_and_near_the_jacobian_norm(x):
    model = vit("differential")
    found = layer_lipschitz(model, x, 1e-4, directions=8, ascent_steps=60)
    for layer in range(3):
        for reading in ("map", "block"):
            exact = jacobian_norm(lambda z, r=reading, i=layer: read_layer(model, z, i, r), x, tol=1e-6)
            ascent = found[reading].ascent[:, layer]
            assert (ascent <= exact * (1 + 1e-3)).all() and (ascent >= 0.9 * exact).all()


def test_errors(x):
    with pytest.raises(ValueError, match="'norms' is not one of"):
        layer_lipschitz(vit("softmax"), x, 0.1, readings=("map", "norms"))
    with pytest.raises(ValueError, match="radius=0"):
        layer_lipschitz(vit("softmax"), x, 0.0)
