"""Structural similarity where offsets and constants leave little of a variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from faultlines.estimators.similarity import ssim


def exact_ssim(a: Tensor, b: Tensor, span: float | None = None) -> float:
    """By loops over windows, centred in each, in long double."""
    a, b = (m.double().numpy().astype(np.longdouble) for m in (a, b))
    span = max(a.max(), b.max()) - min(a.min(), b.min()) if span is None else np.longdouble(span)
    c1, c2 = (span / 100) ** 2, (3 * span / 100) ** 2
    line = np.exp(-(np.arange(-5, 6, dtype=np.longdouble) ** 2) / np.longdouble(4.5))
    w = np.outer(line, line) / line.sum() ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (m[top : top + 11, left : left + 11] for m in (a, b))
            mx, my = x[0, 0] + (w * (x - x[0, 0])).sum(), y[0, 0] + (w * (y - y[0, 0])).sum()
            vx, vy, c = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
            values.append((2 * mx * my + c1) / (mx**2 + my**2 + c1) * (2 * c + c2) / (vx + vy + c2))
    return float(np.mean(values))


@pytest.mark.parametrize("offset", [0.0, 0.3, 3.0, 1e4, -1e8, 1e8, 1e12])
@pytest.mark.parametrize("data_range", [None, 0.5, 4.0])
def test_an_offset_does_not_drown_ssim(offset: float, data_range: float | None) -> None:
    a, b = (torch.rand(1, 14, 16, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    for first, second in ((a + offset, b + offset), (a + offset, b), (a + offset, 0.5 * b - offset)):
        found = ssim(first, second, data_range=data_range).item()
        assert found == pytest.approx(exact_ssim(first[0], second[0], data_range), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 7.77e6, -7.77e6, 1e30])
def test_ssim_of_equal_maps_is_1_and_never_leaves_its_range(dtype: torch.dtype, value: float) -> None:
    flat = torch.full((3, 14, 14), value, dtype=dtype)
    spot = flat.clone()
    spot[:, 2, 3] += max(abs(value), 1)
    rough = (
        flat
        + (abs(value) * torch.randn(3, 14, 14, generator=torch.Generator().manual_seed(0))).to(dtype) / 100
    )
    for data_range in (None, 1.0, 1e-6):
        for a in (flat, spot, rough):
            assert torch.equal(ssim(a, a, data_range=data_range), torch.ones(3, dtype=dtype))
            for b in (flat, spot, rough, -rough):
                assert (ssim(a, b, data_range=data_range).abs() <= 1).all()
