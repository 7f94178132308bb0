from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from faultlines.models import ViT, record
from faultlines.models.recorder import current_tape


def vit(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"image_size": 8, "patch_size": 4, "channels": 1, "classes": 5, "dim": 8, "depth": 3, "heads": 2}
    return ViT(**sizes | options)


@pytest.fixture
def x():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_tape_that_has_enough_ends_the_forward_pass(x):
    model, reached = vit(), []
    model.blocks[2].register_forward_pre_hook(lambda *_: reached.append(True))
    with record() as whole:
        model(x)
    assert reached == [True]
    with record(2) as tape:
        model(x)
        reached.append(False)
    assert reached == [True]  # neither the third block nor what follows the call
    assert all(torch.equal(a, b) for a, b in zip(tape.maps, whole.maps[:2], strict=True))
    assert current_tape() is None
    with record(9) as all_of_them:
        model(x)
    assert len(all_of_them.layers) == 3


def test_an_inner_tape_that_has_enough_leaves_the_outer_one_on(x):
    model = vit()
    with record(4) as outer:
        with record(1) as inner:
            model(x)
        model(x)
        model(x)
    assert len(inner.layers) == 1 and len(outer.layers) == 4


@pytest.mark.parametrize("grad_enabled", [True, False])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_does_not_change_the_explicit_forward_pass(x, grad_enabled, pool):
    model = vit(fused="never", pool=pool)
    with torch.set_grad_enabled(grad_enabled):
        plain = model(x)
        with record() as tape:
            recorded = model(x)
    # a class token needs one row of the last block where nobody looks at the others; sums then round otherwise
    assert torch.equal(plain, recorded) if pool == "mean" else torch.allclose(plain, recorded, atol=1e-6)
    assert len(tape.layers) == 3
    assert torch.equal(plain, model(x))


def test_records_what_the_layer_computed(x):
    model = vit()
    with record() as tape:
        model(x)
    tokens = model.tokens(x)
    for block, layer in zip(model.blocks, tape.layers, strict=True):
        inputs = block.norm1(tokens)
        assert torch.equal(layer.inputs, inputs)
        q, k, v = block.attention.project(inputs)
        assert torch.equal(layer.q, q)
        assert torch.equal(layer.k, k)
        assert torch.equal(layer.v, v)
        for head in range(2):
            scores = q[:, head] @ k[:, head].transpose(1, 2) / 2  # head_dim is 4
            assert torch.allclose(layer.maps[:, head], scores.softmax(dim=-1), atol=1e-6)
        tokens = block(tokens)


def test_maps_keep_their_graph(x):
    model = vit()
    with record() as tape:
        model(x)
    entropy = -(tape.maps[-1] * tape.maps[-1].log()).sum(dim=-1).mean()
    gradients = torch.autograd.grad(entropy, [block.attention.qkv.weight for block in model.blocks])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_gradients_of_maps_under_vmapped_seeds(x):
    """A regularizer on maps, differentiated for three seeds at once, equals one seed after another."""
    models = [vit(seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)

    def penalty(weights, buffers):
        with record() as tape:
            logits = functional_call(models[0], (weights, buffers), (x,))
        return logits.logsumexp(dim=1).mean() + sum((maps**2).mean() for maps in tape.maps)

    together = vmap(grad(penalty))(parameters, buffers)
    for seed, model in enumerate(models):
        with record() as tape:
            logits = model(x)
        value = logits.logsumexp(dim=1).mean() + sum((maps**2).mean() for maps in tape.maps)
        apart = torch.autograd.grad(value, list(model.parameters()))
        for name, gradient in zip(dict(model.named_parameters()), apart, strict=True):
            assert torch.allclose(together[name][seed], gradient, atol=1e-6), name


def test_nests_and_restores(x):
    model = vit()
    with record() as outer:
        model(x)
        with record() as inner:
            model(x)
            model(x)
        assert current_tape() is outer
        model(x)
    assert len(outer.layers) == len(inner.layers) == 6
    assert current_tape() is None


def test_restores_after_an_exception(x):
    model = vit()
    with record() as outer:
        with pytest.raises(ValueError, match="images have shape"), record():
            model(x[..., :4])
        assert current_tape() is outer
    with pytest.raises(RuntimeError, match="mine"), record():
        raise RuntimeError("mine")
    assert current_tape() is None
