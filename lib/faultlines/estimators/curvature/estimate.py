"""Means over random probes, with their standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over independent draws and its standard error, of any equal shape.

    Attributes:
        mean: The estimate.
        standard_error: Sample standard deviation over the root of the number of draws; NaN for one draw.
        draws: Number of draws.
    """

    mean: Float[Tensor, "*shape"]
    standard_error: Float[Tensor, "*shape"]
    draws: int

    @classmethod
    def over(cls, values: Float[Tensor, "draw *shape"]) -> Estimate:
        """Return the estimate from the single draws, stacked along the first axis."""
        error = values.std(dim=0) / len(values) ** 0.5 if len(values) > 1 else values[0] * torch.nan
        return cls(values.mean(dim=0), error, len(values))


@torch.no_grad()
def hutchinson(
    product: Callable[[Tensor], Tensor],
    like: Float[Tensor, "batch n"],
    *,
    probes: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the trace of each symmetric matrix as the mean of $v^\top H v$ over signs $v$ (Hutchinson 1990).

    The variance is $2 \sum_{i \ne j} H_{ij}^2$ a probe: none for a diagonal matrix.

    Args:
        product: Maps `[batch, n]` to the products, row by row.
        like: Shape, dtype and device of the probes.
        probes: Number of probes, at least 1.
        generator: Source of the signs; seeded with 0 by default.

    Raises:
        ValueError: If `probes` is below 1.
    """
    if probes < 1 or probes != int(probes):
        raise ValueError(f"probes={probes} must be a whole number of at least 1")
    generator = torch.Generator(like.device).manual_seed(0) if generator is None else generator
    draws = []
    for _ in range(int(probes)):
        v = torch.randint(2, like.shape, generator=generator, device=generator.device).to(like) * 2 - 1
        draws.append((v * product(v)).sum(dim=1))
    return Estimate.over(torch.stack(draws))
