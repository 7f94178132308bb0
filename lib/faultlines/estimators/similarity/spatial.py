"""Similarities that know where a pixel is: structural similarity, and the shift of the centre of mass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.estimators.similarity.checks import both_finite, flat_pair, where_defined

PixelMaps = Float[Tensor, "batch height width"]
SIGMA, WINDOW = 1.5, 11  # of Wang et al.


def ssim(a: PixelMaps, b: PixelMaps, *, data_range: float | None = None) -> Float[Tensor, " batch"]:
    r"""Return the mean structural similarity of each pair of maps (Wang et al. 2004), computed in float64.

    Gaussian weights of deviation 1.5 in a window of 11 pixels, averaged over the windows that lie inside the map;
    $C_1 = (0.01 L)^2$, $C_2 = (0.03 L)^2$. On a map with a side below 11 the window is the largest odd one that fits.

    Args:
        a: Maps.
        b: Maps of the same shape.
        data_range: $L$; by default each pair's own, the largest entry of both maps less the smallest.

    Returns:
        One value a pair, in [-1, 1] and the dtype of the maps; 1 for two equal maps, constant ones too; NaN where an
        entry is not finite.

    Raises:
        ValueError: If the maps are not `[batch, height, width]`, differ in shape, dtype or device, or `data_range` is
            not positive.
    """
    rows_a, rows_b = _flat_maps(a, b)
    defined = both_finite(rows_a, rows_b)
    if data_range is None:
        both = torch.cat([rows_a, rows_b], dim=1).double()
        span = both.amax(dim=1) - both.amin(dim=1)
        # equal constant maps: any range gives 1, and with this one no square overflows
        span = torch.where(span > 0, span, both.abs().amax(dim=1))
        span = torch.where(span > 0, span, 1)
    elif data_range > 0:
        span = torch.full((len(a),), float(data_range), dtype=torch.float64, device=a.device)
    else:
        raise ValueError(f"data_range={data_range!r} must be above 0")
    offset_a, offset_b = (_offset(rows.double(), span) for rows in (rows_a, rows_b))
    x, y = (
        (m.double() - off[:, None, None]) / span[:, None, None] for m, off in ((a, offset_a), (b, offset_b))
    )
    mean_x, mean_y, xx, yy, xy = _window_means(torch.stack([x, y, x * x, y * y, x * y], dim=1)).unbind(dim=1)
    var_x, var_y = ((s - m * m).clamp_min(0) for s, m in ((xx, mean_x), (yy, mean_y)))
    # Cauchy and Schwarz hold up to rounding only, which is all there is where both variances are next to nothing
    most = (var_x + var_y) / 2
    covariance = torch.minimum(torch.maximum(xy - mean_x * mean_y, -most), most)
    structure = (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
    mean_x, mean_y = (m + (off / span)[:, None, None] for m, off in ((mean_x, offset_a), (mean_y, offset_b)))
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    value = (light * structure).mean(dim=(1, 2)).clamp(-1, 1)
    return where_defined(value.to(a.dtype), defined)


def mass_center_shift(a: PixelMaps, b: PixelMaps) -> Float[Tensor, " batch"]:
    r"""Return the distance in pixels between the centres of mass of each pair of maps (Ghorbani et al. 2019).

    The mass of a pixel is its absolute value, the centre $\sum_i |e_i| (r_i, c_i) / \sum_i |e_i|$ with row $r_i$
    and column $c_i$.

    Args:
        a: Maps.
        b: Maps of the same shape.

    Returns:
        One distance a pair, in the dtype of the maps; a constant map has its centre in the middle; NaN where a map is
        zero, and so without mass, or has an entry that is not finite.

    Raises:
        ValueError: If the maps are not `[batch, height, width]`, or differ in shape, dtype or device.

    Example:
        >>> a, b = torch.zeros(2, 1, 5, 5)
        >>> a[0, 0, 0], b[0, 3, 4] = 1, 7
        >>> mass_center_shift(a, b)
        tensor([5.])
    """
    defined = both_finite(*_flat_maps(a, b))
    shift = _center(a) - _center(b)
    return where_defined(shift.norm(dim=1).to(a.dtype), defined)


def _flat_maps(a: PixelMaps, b: PixelMaps) -> tuple[Tensor, Tensor]:
    rows = flat_pair(a, b)
    if a.ndim != 3:
        raise ValueError(f"a and b have shape {tuple(a.shape)}; [batch, height, width] is needed")
    return rows


def _offset(rows: Float[Tensor, "batch n"], span: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return the entry next to 0 of each map where it lies further than `span` from it, and 0 elsewhere.

    Variances do not see what is subtracted, but the square of a large offset would leave nothing of them.
    """
    nearest = torch.where(rows.amin(dim=1) > 0, rows.amin(dim=1), rows.amax(dim=1).clamp_max(0))
    return torch.where(nearest.abs() > span, nearest, 0)


def _window_means(maps: Float[Tensor, "batch kind height width"]) -> Tensor:
    """Return Gaussian-weighted means over all windows inside the maps."""
    for axis in (2, 3):
        size = min(WINDOW, maps.shape[axis])
        size -= 1 - size % 2
        offset = torch.arange(size, dtype=maps.dtype, device=maps.device) - size // 2
        weights = torch.exp(-0.5 * (offset / SIGMA) ** 2)
        kernel = (weights / weights.sum()).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        maps = F.conv2d(maps.flatten(0, 1)[:, None], kernel).squeeze(1).unflatten(0, maps.shape[:2])
    return maps


def _center(maps: PixelMaps) -> Float[Tensor, "batch 2"]:
    mass = maps.abs().double()
    mass = mass / mass.amax(dim=(1, 2), keepdim=True)  # 0/0 = NaN for a zero map
    row, column = (torch.arange(s, dtype=mass.dtype, device=mass.device) for s in mass.shape[1:])
    sums = torch.stack([mass.sum(dim=2) @ row, mass.sum(dim=1) @ column], dim=1)
    return sums / mass.sum(dim=(1, 2))[:, None]
