from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from faultlines.estimators import attention_focus, foreground_energy, hoyer_sparsity, map_coverage
from faultlines.models import record_attention


class Metrics(NamedTuple):
    energy: torch.Tensor
    coverage: torch.Tensor
    sparsity: torch.Tensor
    area: torch.Tensor


def metrics(maps, mask):
    found = foreground_energy(maps, mask), map_coverage(maps), hoyer_sparsity(maps)
    return Metrics(*found, mask.to(maps.dtype).mean(dim=(1, 2)))


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 4, 6, generator=generator, dtype=torch.float64).square()
    mask = F.interpolate(torch.randn(20, 1, 3, 3, generator=generator), (16, 24))[:, 0] > 0.2
    return maps, mask


def test_against_loops_over_pixels(case):
    maps, mask = case
    found = metrics(maps, mask)
    for k in range(20):
        m, inside = maps[k].numpy(), mask[k].numpy()
        pixels = np.kron(m, np.ones((4, 4)))  # every cell has 4 x 4 pixels
        assert found.energy[k].item() == pytest.approx(pixels[inside].sum() / pixels.sum(), rel=1e-12)
        assert found.coverage[k].item() == np.mean(m > 0.1 * m.max())
        ratio = m.sum() / np.sqrt((m**2).sum())
        assert found.sparsity[k].item() == pytest.approx((np.sqrt(24) - ratio) / (np.sqrt(24) - 1), rel=1e-12)
        assert found.area[k].item() == pytest.approx(inside.mean())


def test_scale_does_not_matter(case):
    maps, mask = case
    for one, other in zip(metrics(maps, mask), metrics(1e-30 * maps, mask), strict=True):
        torch.testing.assert_close(one, other)


def test_energy_of_foreground_and_background_add_up(case):
    maps, mask = case
    torch.testing.assert_close(
        foreground_energy(maps, mask) + foreground_energy(maps, ~mask), torch.ones(20).double()
    )


def test_an_even_map_has_the_values_of_chance(case):
    maps, mask = case
    even = metrics(torch.full_like(maps, 0.3), mask)
    torch.testing.assert_close(even.energy, even.area)
    assert even.sparsity.abs().max() < 1e-12 and (even.coverage == 1).all()


def test_an_empty_map_counts_as_an_even_one_and_covers_nothing(case):
    maps, mask = case
    empty = metrics(torch.zeros_like(maps), mask)
    torch.testing.assert_close(empty.energy, empty.area)
    assert (empty.sparsity == 0).all() and (empty.coverage == 0).all()


def test_one_cell_alone():
    maps, mask = torch.zeros(1, 4, 4), torch.zeros(1, 8, 8, dtype=torch.bool)
    maps[0, 1, 2] = 5.0
    for inside in (False, True):
        mask[0, 2:4, 4:6] = inside
        found = metrics(maps, mask)
        assert found.energy.item() == float(inside)
        assert found.sparsity.item() == 1 and found.coverage.item() == 1 / 16


def test_the_cosine_to_a_constant_map_is_a_line_in_sparsity(case):
    maps, _ = case
    cosine = F.cosine_similarity(maps.flatten(1), torch.ones(20, 24, dtype=torch.float64))
    root = 24**0.5
    torch.testing.assert_close(hoyer_sparsity(maps), (root - root * cosine) / (root - 1))


def test_energy_is_differentiable_also_at_an_empty_map(case):
    maps, mask = case
    assert torch.autograd.gradcheck(
        lambda m: foreground_energy(m, mask[:3]), maps[:3].clone().requires_grad_()
    )
    empty = torch.zeros_like(maps).requires_grad_()
    foreground_energy(empty, mask).sum().backward()
    assert bool(torch.isfinite(empty.grad).all())


@pytest.mark.parametrize(
    ("maps", "mask", "words"),
    [
        (torch.ones(2, 4), torch.ones(2, 4, 4) > 0, r"maps has shape \(2, 4\)"),
        (torch.ones(2, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4) > 0, "dtype torch.int64"),
        (-torch.ones(2, 4, 4), torch.ones(2, 4, 4) > 0, "negative or not finite"),
        (torch.full((2, 4, 4), torch.nan), torch.ones(2, 4, 4) > 0, "negative or not finite"),
        (torch.ones(2, 4, 4), torch.ones(3, 4, 4) > 0, r"mask has shape \(3, 4, 4\)"),
        (torch.ones(2, 4, 4), torch.ones(2, 4, 4), "dtype torch.float32; bool"),
        (torch.ones(2, 4, 4), torch.ones(2, 2, 4) > 0, r"mask is \(2, 4\), coarser than the maps' \(4, 4\)"),
    ],
)
def test_bad_input_is_named(maps, mask, words):
    with pytest.raises(ValueError, match=words):
        metrics(maps, mask)


def test_a_threshold_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"threshold=1.0 must lie in \[0, 1\)"):
        map_coverage(torch.ones(1, 2, 2), threshold=1.0)


class Looks(torch.nn.Module):
    """Attends from the class token with given weights, `[head, patch]`."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        row = torch.cat([torch.zeros(len(self.weights), 1), self.weights], dim=1)  # [head, key]
        record_attention(row[None, :, None].expand(len(x), -1, row.shape[1], -1))
        return x.flatten(1)


def test_attention_focus_of_known_maps():
    # four patches of 2 x 2 pixels; the foreground is the top left patch
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    x = torch.rand(3, 1, 4, 4)
    for rows, share in (
        ([[1.0, 0, 0, 0]], 1.0),
        ([[0, 0, 0, 1.0]], 0.0),
        ([[1.0, 1, 1, 1]], 0.25),
        ([[-3.0, 1, 0, 0], [0, 0, 2, 2]], 3 / 8),  # signs do not matter, heads are summed
    ):
        assert attention_focus(Looks(torch.tensor(rows)), x, mask).tolist() == pytest.approx([share] * 3)
    with pytest.raises(ValueError, match="no square grid"):
        attention_focus(Looks(torch.ones(1, 3)), x, mask)
    with pytest.raises(ValueError, match="records no attention"):
        attention_focus(torch.nn.Flatten(), x, mask)
