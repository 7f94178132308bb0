"""Sharpness of a loss in the parameters: leading eigenvalues and trace of its Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.curvature.hessian_vector import HessianProduct, Loss
from faultlines.estimators.curvature.krylov import lanczos
from faultlines.estimators.forward import full_float32


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


@dataclass(frozen=True)
class HessianTop:
    """The largest eigenvalues of a Hessian; see `Eigenpairs`.

    Attributes:
        values: The largest algebraically, `[k]`, the largest first.
        errors: Estimated errors, `[k]`.
        vectors: Unit eigenvectors, `[k, parameter]`, in the order of the parameters.
        lowest: The smallest eigenvalue met, scalar.
        steps: Hessian-vector products taken.
    """

    values: Float[Tensor, " k"]
    errors: Float[Tensor, " k"]
    vectors: Float[Tensor, "k parameter"]
    lowest: Float[Tensor, ""]
    steps: int


@full_float32()
def hessian_top(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    *,
    k: int = 1,
    loss: Loss = F.cross_entropy,
    steps: int = 100,
    tol: float = 1e-2,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> HessianTop:
    r"""Return the $k$ largest eigenvalues of $\nabla^2_\theta L$, by Lanczos with Hessian-vector products.

    Args:
        model: The network, in evaluation mode where it has batch normalisation or dropout; see `HessianProduct`.
        x: Inputs.
        y: Targets.
        k: How many eigenvalues.
        loss: Mean loss from outputs and targets.
        steps: At most so many products.
        tol: Relative accuracy aimed at; see `lanczos`.
        chunk_size: Samples a piece, where all at once do not fit in memory; it does not change the value.
        generator: Source of the starting direction; seeded with 0 by default.

    Returns:
        Values with error estimates, in the dtype of the parameters.

    Raises:
        ValueError: If an argument is out of range, or the network is in the wrong mode.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> top = hessian_top(model, x, torch.zeros(2, 1), loss=F.mse_loss, k=2)  # of x' x, 2/n times
        >>> [round(value, 4) for value in top.values.tolist()]
        [4.0, 1.0]
    """
    product = HessianProduct(model, x, y, loss=loss, chunk_size=chunk_size)
    found = lanczos(product, _start(product, generator), k=k, steps=steps, tol=tol)
    return HessianTop(found.values[0], found.errors[0], found.vectors[0], found.lowest[0], found.steps)


@full_float32()
def hessian_trace(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    *,
    loss: Loss = F.cross_entropy,
    probes: int = 64,
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate $\operatorname{tr} \nabla^2_\theta L$ from random signs (Hutchinson 1990), with its standard error.

    Args:
        model: The network, in evaluation mode where it has batch normalisation or dropout.
        x: Inputs.
        y: Targets.
        loss: Mean loss from outputs and targets.
        probes: Number of Hessian-vector products.
        chunk_size: Samples a piece, where all at once do not fit in memory; it does not change the value.
        generator: Source of the signs; seeded with 0 by default.

    Returns:
        Scalar mean and standard error.

    Raises:
        ValueError: If an argument is out of range, or the network is in the wrong mode.

    Example:
        >>> model, x = nn.Linear(2, 1, bias=False), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> hessian_trace(model, x, torch.zeros(2, 1), loss=F.mse_loss, probes=3)  # diagonal: no variance
        Estimate(mean=tensor(5.), standard_error=tensor(0.), draws=3)
    """
    product = HessianProduct(model, x, y, loss=loss, chunk_size=chunk_size)
    found = hutchinson(product, product.like, probes=probes, generator=generator)
    return Estimate(found.mean[0], found.standard_error[0], found.draws)


def _start(product: HessianProduct, generator: torch.Generator | None) -> Tensor:
    like = product.like
    generator = torch.Generator(like.device).manual_seed(0) if generator is None else generator
    start = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return start.to(like.device) / math.sqrt(
        like.numel()
    )  # of length about 1, whatever the number of parameters
