from __future__ import annotations

import pytest
import torch
from tests.estimators.alignment.exact_alignment import alignment_exact

from faultlines.estimators.alignment import alignment_hutchinson
from faultlines.models import ViT, record

SIZES = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 4}


def vit(attention):
    torch.manual_seed(0)
    return ViT(**SIZES, attention=attention, qk_gain=3.0).double().eval()


@pytest.fixture
def x():
    return torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["differential", "softmax"])
def test_converges_to_the_exact_value(x, attention):
    model = vit(attention)
    exact = alignment_exact(model, x)
    errors = []
    for probes in (16, 256):
        found = alignment_hutchinson(model, x, probes=probes, generator=torch.Generator().manual_seed(2))
        assert found.cosine.shape == exact.cosine.shape == (3, 2, 2)
        errors.append((found.cosine - exact.cosine).abs().mean().item())
        assert (found.norm1 / exact.norm1 - 1).abs().mean() < 1.5 / probes**0.5
        assert (found.norm2 / exact.norm2 - 1).abs().mean() < 1.5 / probes**0.5
    assert errors[0] < 0.25 and errors[1] < 0.06, errors
    assert errors[1] < 0.6 * errors[0], errors  # 16 times the probes: a quarter, give or take
    assert (found.lam is None) == (attention == "softmax")


def test_single_moments_are_unbiased(x):
    """All 2^9 sign patterns of a 3 x 3 block give the Frobenius inner product exactly: no sampling error."""
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 9, 4, dtype=torch.float64, generator=generator)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 9)
    mean = ((signs @ one) * (signs @ two)).sum(1).mean()
    assert torch.allclose(mean, (one * two).sum())


def test_seeded_and_leaves_the_model_alone(x):
    model = vit("differential")
    with torch.no_grad():  # an estimate inside no_grad is a common slip
        one = alignment_hutchinson(model, x, probes=2)
    two = alignment_hutchinson(model, x, probes=2)
    assert torch.equal(one.cosine, two.cosine)
    other = alignment_hutchinson(model, x, probes=2, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(one.cosine, other.cosine)
    assert not x.requires_grad and all(p.grad is None for p in model.parameters())
    assert not one.cosine.requires_grad and not one.lam.requires_grad


def test_a_batch_is_its_samples(x):
    model = vit("differential")
    whole = alignment_hutchinson(model, x[:1], probes=3)
    doubled = alignment_hutchinson(model, x, probes=1)
    assert whole.cosine.shape == (1, 2, 2) and doubled.cosine.shape == (3, 2, 2)
    # with one probe the gradient of a sample must not mix with the others'
    changed = x.clone()
    changed[1:] = 0.5
    assert torch.allclose(
        alignment_hutchinson(model, changed, probes=1).cosine[0], doubled.cosine[0], rtol=1e-9
    )


def test_errors(x):
    with pytest.raises(ValueError, match="probes=0"):
        alignment_hutchinson(vit("differential"), x, probes=0)
    with pytest.raises(ValueError, match="records no attention"):
        alignment_hutchinson(torch.nn.Flatten(), x)


@pytest.mark.parametrize("attention", ["differential", "softmax"])
def test_map_norm_is_that_of_the_jacobian_of_the_recorded_map(x, attention):
    model, rows = vit(attention), []
    for layer in range(2):

        def combined(z, layer=layer):
            with record() as tape:
                model(z[None])
            return tape.maps[layer][0]

        jacobians = torch.stack([torch.autograd.functional.jacobian(combined, z).flatten() for z in x])
        rows.append((jacobians.square().sum(1) / combined(x[0]).shape[0]).sqrt())
    assert torch.allclose(alignment_exact(model, x).map_norm(), torch.stack(rows, dim=1), rtol=1e-8)
