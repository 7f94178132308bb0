r"""One-dimensional ReLU regression by full-batch descent: sharpness against $2 / \eta$, and how $f'$ varies.

In one dimension the curvature of the fitted function in its input is the total variation of its slope, which a
ReLU network has in closed form, at kinks. It is where "large steps find flat minima, and flat minima are simple
functions" can be seen with nothing in between (Mulayoff et al. 2021; Nacson et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LineFits:
    r"""Networks $f(x) = \sum_j a_j \max(w_j x + b_j, 0) + c$ after descent; rows are step sizes, columns seeds.

    Attributes:
        lr: Step sizes $\eta$.
        loss: Mean squared error on the training points; NaN where descent diverged, as in all that follows.
        test_loss: Mean squared error to the function without noise, on a grid over $[-1, 1]$.
        sharpness: Largest eigenvalue of the Hessian of the training loss.
        variation: $\mathrm{TV}(f') = \sum_j |a_j w_j|$ over units whose kink lies inside $(-1, 1)$.
        slope_change: $\max_{x, |\delta| \le r} |f'(x + \delta) - f'(x)|$ over the grid, the change of the explanation.
        points: Training points, $x$ and $y$.
        fitted: The networks on 401 places spread over $[-1, 1]$.
    """

    lr: tuple[float, ...]
    loss: Float[Tensor, "lr seed"]
    test_loss: Float[Tensor, "lr seed"]
    sharpness: Float[Tensor, "lr seed"]
    variation: Float[Tensor, "lr seed"]
    slope_change: Float[Tensor, "lr seed"]
    points: Float[Tensor, "seed n 2"]
    fitted: Float[Tensor, "lr seed place"]

    @property
    def stability(self) -> Float[Tensor, "lr seed"]:
        r"""Sharpness over $2 / \eta$: 1 at the edge of stability, below it where descent has not come to the edge."""
        return self.sharpness * torch.tensor(self.lr, dtype=self.sharpness.dtype)[:, None] / 2


def line_data(
    seeds: Sequence[int], *, n: int, noise: float
) -> tuple[Float[Tensor, "seed n"], Float[Tensor, "seed n"]]:
    r"""Return `n` sorted points of $\sin 3x$ on $[-1, 1]$ with normal noise, a set a seed."""
    points, values = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = (2 * torch.rand(n, generator=generator) - 1).sort().values
        points.append(x)
        values.append((3 * x).sin() + noise * torch.randn(n, generator=generator))
    return torch.stack(points), torch.stack(values)


def fit_lines(
    lr: Sequence[float],
    seeds: Sequence[int],
    *,
    n: int = 30,
    width: int = 100,
    noise: float = 0.4,
    steps: int = 20_000,
    radius: float = 0.05,
) -> LineFits:
    r"""Descend on the mean squared error from the same initial weights with every step size, all at once.

    Training is in float32, measurement in float64. Initial weights are PyTorch's: uniform, $w_j, b_j$ in $[-1, 1]$
    and $a_j$ in $[-1, 1] / \sqrt{\text{width}}$.

    Args:
        lr: Step sizes, positive.
        seeds: Seeds of points, noise and initial weights.
        n: Training points.
        width: Hidden units.
        noise: Standard deviation of the noise.
        steps: Steps of full-batch gradient descent, the same number for every step size.
        radius: $r$ of `slope_change`.

    Raises:
        ValueError: If a number is out of range, or there is no step size or seed.

    Example:
        >>> fits = fit_lines([0.01, 0.1], seeds=[0], n=10, width=20, steps=200)
        >>> fits.sharpness.shape, bool((fits.variation > 0).all())
        (torch.Size([2, 1]), True)
    """
    if not lr or not seeds:
        raise ValueError(f"lr={list(lr)} and seeds={list(seeds)} must hold at least one each")
    for name, value in cast(list[tuple[str, float]], (("n", n), ("width", width), ("steps", steps))):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    for value in lr:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"lr={value!r} must be a positive number")
    if not 1e-3 <= radius <= 2:  # a step of the grid on which it is measured, and its length
        raise ValueError(f"radius={radius!r} must lie in [0.001, 2]")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise={noise!r} must be a number of at least 0")
    x, y = line_data(seeds, n=n, noise=noise)
    points = torch.stack([x, y], dim=2)
    eta = torch.tensor(list(lr)).repeat_interleave(len(seeds))[:, None]
    x, y = x.repeat(len(lr), 1), y.repeat(len(lr), 1)
    start = torch.stack([initial_weights(width, seed) for seed in seeds]).repeat(len(lr), 1)
    flat = descend_lines(start, x, y, eta, steps).double()
    shape = (len(lr), len(seeds))
    loss, test_loss, sharp, variation, change = (
        part.reshape(shape) for part in measure_lines(flat, x.double(), y.double(), radius)
    )
    places = torch.linspace(-1, 1, 401, dtype=flat.dtype).expand(len(flat), -1)
    fitted = evaluate(flat, places).reshape(*shape, -1)
    return LineFits(tuple(lr), loss, test_loss, sharp, variation, change, points, fitted)


def initial_weights(width: int, seed: int) -> Float[Tensor, " parameter"]:
    """Return $w, b, a, c$ in one vector."""
    generator = torch.Generator().manual_seed(seed)
    uniform = 2 * torch.rand(3 * width, generator=generator) - 1
    uniform[2 * width :] /= width**0.5
    return torch.cat([uniform, torch.zeros(1)])


@torch.no_grad()
def descend_lines(
    flat: Float[Tensor, "run parameter"],
    x: Float[Tensor, "run n"],
    y: Float[Tensor, "run n"],
    eta: Float[Tensor, "run 1"],
    steps: int,
) -> Float[Tensor, "run parameter"]:
    """Return the weights after so many steps; every run on its own."""
    width = (flat.shape[1] - 1) // 3
    w, b, a, c = (part.clone() for part in flat.split([width, width, width, 1], dim=1))
    # the gradient by hand: autograd would take several times as long on tensors so small
    for _ in range(steps):
        z = x[:, :, None] * w[:, None] + b[:, None]
        on = z.clamp_min_(0)
        error = (2 / x.shape[1]) * ((on @ a[:, :, None]).squeeze(2) + c - y)
        gate = (on > 0).to(x.dtype)
        by_unit = torch.stack([error * x, error], dim=1) @ gate
        step_a = (error[:, None] @ on).squeeze(1)
        w -= eta * a * by_unit[:, 0]
        b -= eta * a * by_unit[:, 1]
        a -= eta * step_a
        c -= eta * error.sum(dim=1, keepdim=True)
    return torch.cat([w, b, a, c], dim=1)


def measure_lines(
    flat: Float[Tensor, "run parameter"], x: Float[Tensor, "run n"], y: Float[Tensor, "run n"], radius: float
) -> list[Float[Tensor, " run"]]:
    """Return loss, test loss, sharpness, variation and slope change of each run, NaN where it diverged."""
    width = (flat.shape[1] - 1) // 3
    w, b, a, _ = flat.split([width, width, width, 1], dim=1)
    grid = torch.linspace(-1, 1, 2001, dtype=flat.dtype)
    fitted = evaluate(flat, grid.expand(len(flat), -1))
    slope = ((grid[:, None] * w[:, None] + b[:, None] > 0).to(flat.dtype) @ (a * w)[:, :, None]).squeeze(2)
    reach = max(1, round(radius / (2 / 2000)))
    windows = slope.unfold(1, reach + 1, 1)
    values = [
        (evaluate(flat, x) - y).square().mean(dim=1),
        (fitted - (3 * grid).sin()).square().mean(dim=1),
        sharpness(flat, x, y),
        ((a * w).abs() * ((b / w).abs() < 1)).sum(dim=1),
        (windows.amax(dim=2) - windows.amin(dim=2)).amax(dim=1),
    ]
    fine = flat.isfinite().all(dim=1)
    return [torch.where(fine, value, torch.nan) for value in values]


def evaluate(flat: Float[Tensor, "*run parameter"], x: Float[Tensor, "*run n"]) -> Float[Tensor, "*run n"]:
    """Return the networks at their points."""
    width = (flat.shape[-1] - 1) // 3
    w, b, a, c = flat.split([width, width, width, 1], dim=-1)
    hidden = (x[..., :, None] * w[..., None, :] + b[..., None, :]).relu()
    return (hidden @ a[..., :, None]).squeeze(-1) + c


def sharpness(
    flat: Float[Tensor, "run parameter"], x: Float[Tensor, "run n"], y: Float[Tensor, "run n"]
) -> Float[Tensor, " run"]:
    """Return the largest eigenvalue of each training loss's Hessian, from the dense matrix."""
    tops = []
    for weights, points, values in zip(flat, x, y, strict=True):
        if not weights.isfinite().all():
            tops.append(weights.new_tensor(torch.nan))
            continue
        dense = torch.autograd.functional.hessian(
            lambda p, u=points, v=values: (evaluate(p, u) - v).square().mean(), weights
        )
        tops.append(torch.linalg.eigvalsh(dense)[-1])
    return torch.stack(tops)
