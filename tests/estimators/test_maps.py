import math

import pytest
import torch

from faultlines.estimators.attention_statistics import map_statistics, row_entropy
from faultlines.estimators.spectral import spectral_norm


def test_statistics_of_known_maps():
    n = 5
    uniform = torch.full((n, n), 1 / n, dtype=torch.float64)
    permutation = torch.eye(n, dtype=torch.float64).roll(1, 0)
    sink = torch.zeros(n, n, dtype=torch.float64)
    sink[:, 2] = 1
    found = map_statistics(torch.stack([uniform, permutation, sink])[None])
    torch.testing.assert_close(found.norm[0], torch.tensor([1.0, 1.0, math.sqrt(n)], dtype=torch.float64))
    torch.testing.assert_close(found.max_steepness[0], torch.tensor([1 / n, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(found.entropy[0, :, 0], torch.tensor([math.log(n), 0, 0], dtype=torch.float64))
    torch.testing.assert_close(found.peak[0, :, 0], torch.tensor([1 / n, 1, 1], dtype=torch.float64))


def test_entropy_agrees_with_torch_and_has_a_gradient_at_zeros():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    entropy = row_entropy(p)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(probs=p.detach()).entropy())
    (gradient,) = torch.autograd.grad(entropy.sum(), p)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 9), (2, 9, 3)])
def test_spectral_norm_is_the_largest_singular_value(shape):
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(spectral_norm(m), torch.linalg.svdvals(m)[..., 0], rtol=1e-13, atol=0)


def test_a_vector_is_no_map():
    with pytest.raises(ValueError, match="maps"):
        map_statistics(torch.tensor([0.5, 0.5]))
