"""Sharpness of a loss in the parameters: leading eigenvalues, trace, and curvature along mini-batch gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.curvature.estimate import Estimate, hutchinson
from faultlines.estimators.curvature.lanczos import lanczos
from faultlines.estimators.curvature.product import HessianProduct, Loss


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
        chunk_size: Samples a piece, where all at once do not fit in memory.
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
        chunk_size: Samples a piece, where all at once do not fit in memory.
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


def batch_sharpness(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    *,
    batch_size: int,
    batches: int = 32,
    loss: Loss = F.cross_entropy,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate $\mathbb{E}_b\, g_b^\top H_b\, g_b / \lVert g_b \rVert^2$ over mini-batches $b$ without repeats.

    The curvature of a mini-batch's loss along its own gradient, which SGD of step size $\eta$ was found to hold
    near $2 / \eta$ while the largest eigenvalue stays below (Andreyev and Beneventano 2024).

    Args:
        model: The network, in evaluation mode where it has batch normalisation or dropout.
        x: Inputs.
        y: Targets.
        batch_size: Samples a mini-batch, at most as many as there are.
        batches: Number of mini-batches.
        loss: Mean loss from outputs and targets.
        generator: Source of the mini-batches; seeded with 0 by default.

    Returns:
        Scalar mean and standard error over mini-batches; a mini-batch whose gradient is zero counts as NaN.

    Raises:
        ValueError: If a number is out of range, or the network is in the wrong mode.
    """
    if not 1 <= batch_size <= len(x):
        raise ValueError(f"batch_size={batch_size} must lie between 1 and the number of samples, {len(x)}")
    if batches < 1:
        raise ValueError(f"batches={batches} must be at least 1")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    values = []
    for _ in range(batches):
        index = torch.randperm(len(x), generator=generator, device=generator.device)[:batch_size].to(x.device)
        product = HessianProduct(model, x[index], y[index], loss=loss)
        g = product.gradient[None]
        values.append((g * product(g)).sum() / g.square().sum())
    return Estimate.over(torch.stack(values))


def _start(product: HessianProduct, generator: torch.Generator | None) -> Tensor:
    like = product.like
    generator = torch.Generator(like.device).manual_seed(0) if generator is None else generator
    start = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return start.to(like.device) / math.sqrt(
        like.numel()
    )  # of length about 1, whatever the number of parameters
