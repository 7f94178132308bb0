r"""The spectral norm of a Jacobian from products with it, by Golub-Kahan-Lanczos bidiagonalisation.

Each step costs one product with $J$ and one with $J^\top$, exactly like a step of power iteration, but the
estimate is the best over the whole Krylov space instead of its last vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.estimators.curvature.krylov import lengths, normalise, orthogonalise
from faultlines.estimators.forward import check_floating, check_steady, in_any_mode, outputs, warn_of_nan
from faultlines.estimators.spectral import spectral_norm

MIN_STEPS = 12  # before, two large values that lie close look like one, and the gap says nothing


Products = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]


@dataclass(frozen=True)
class LeadingSingular:
    r"""The largest singular value of each sample's Jacobian, and how well it is known.

    Attributes:
        norm: Estimate of the spectral norm, `[batch]`; up to rounding never too large.
        direction: Unit input direction that attains it, in the shape of the input.
        error: Estimated error of `norm`, `[batch]`; no bound. As a rule it is much too large, but it is too
            small where the start hardly touches the leading direction or the leading values crowd together.
        steps: Steps taken, each one product with $J$ and one with $J^\top$.
    """

    norm: Float[Tensor, " batch"]
    direction: Float[Tensor, "batch ..."]
    error: Float[Tensor, " batch"]
    steps: int


def jacobian_norm(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch ..."],
    *,
    steps: int = 32,
    tol: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""Return $\lVert \partial f(x_b) / \partial x_b \rVert_2$ of each sample $b$, Euclidean to Euclidean.

    It is a lower bound that converges to the norm; see `leading_singular`, which also returns the direction
    and an error estimate.

    Args:
        f: Maps a batch to a batch; each output sample must depend on its own input sample only (no batch
            normalisation in training mode).
        x: Where the Jacobian is taken. Its dtype, float32 or float64, is that of the computation; float32
            reaches about 1e-5.
        steps: At most so many steps.
        tol: Relative accuracy aimed at: stop when every sample's estimated error is below it, after at least
            twelve steps. 0 takes all steps.
        generator: Source of the random starting directions; seeded with 0 by default.

    Returns:
        One norm a sample; NaN where a product with the Jacobian is not finite.

    Raises:
        ValueError: If an argument is out of range, or `f` does not map a batch to a batch of its size.

    Example:
        >>> import torch
        >>> w = torch.diag(torch.tensor([1.0, 5.0, 2.0]))
        >>> jacobian_norm(lambda x: x @ w, torch.zeros(2, 3))
        tensor([5.0000, 5.0000])
    """
    return leading_singular(f, x, steps=steps, tol=tol, generator=generator).norm


@in_any_mode
def leading_singular(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch ..."],
    *,
    steps: int = 32,
    tol: float = 1e-3,
    generator: torch.Generator | None = None,
) -> LeadingSingular:
    r"""Return the leading singular value and right singular vector of each sample's Jacobian.

    After $k$ steps $J V_k = U_k B_k$ and $J^\top U_k = V_{k+1} [B_k, \beta e_k]^\top$ with orthonormal $U_k$,
    $V_{k+1}$ (fully reorthogonalised) and $B_k$ upper bidiagonal. The estimate is the norm of
    $[B_k, \beta e_k]$, which uses every product made. Its error is estimated by that of
    $\sigma_1 = \lVert B_k \rVert_2$, $\min(\rho, \rho^2 \sigma_1 / (2 (\sigma_1^2 - \sigma_2^2)))$ with the
    residual $\rho$ of the leading triple and the gap in $B_k$ (Parlett, The Symmetric Eigenvalue Problem,
    1980, chapter 11, for $J^\top J$).

    A random start has a part in every direction with probability
    1, so a larger singular value hides only while that part is small; the estimate is a lower bound in any
    case.

    Args:
        f: Maps a batch to a batch, sample by sample.
        x: Where the Jacobian is taken.
        steps: At most so many steps.
        tol: Relative accuracy aimed at.
        generator: Source of the random starting directions; seeded with 0 by default.

    Returns:
        Norm, direction, error estimate and the number of steps.

    Raises:
        ValueError: If an argument is out of range, or `f` does not map a batch to a batch of its size.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if not tol >= 0:
        raise ValueError(f"tol={tol} must be at least 0")
    if x.ndim < 2 or 0 in x.shape[1:] or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}; float32 or float64 [batch, ...] with at least one "
            "entry a sample is needed"
        )
    if generator is None:
        generator = torch.Generator(x.device).manual_seed(0)
    start = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype).flatten(1)
    forward, backward, size = _products(f, x.detach())
    with torch.no_grad():
        steps = min(steps, size + 1, start.shape[1])  # the start may lie partly in the null space
        return _bidiagonalise(forward, backward, start, steps, tol, x.shape)


def _products(f: Callable[[Tensor], Tensor], x: Tensor) -> Products:
    r"""Return `v -> J v` and `u -> J^T u` on flat batches, both from one forward pass; and the output size.

    $u \mapsto J^\top u$ is linear, so its own transpose gives $J v$ from the graph that is already there.
    """
    check_steady(f)
    with sdpa_kernel(SDPBackend.MATH):  # its transpose is a second derivative, which fused attention has not
        out, pullback, *_ = torch.func.vjp(lambda z: outputs(f, z), x)
    if out.ndim < 1 or out.shape[0] != x.shape[0]:
        raise ValueError(
            f"f returned shape {tuple(out.shape)} for a batch of {x.shape[0]}; [batch, ...] is needed"
        )
    _, pushforward, *_ = torch.func.vjp(lambda u: pullback(u)[0], torch.zeros_like(out))
    size = math.prod(out.shape[1:])
    return (
        lambda v: pushforward(v.reshape(x.shape))[0].reshape(len(x), size),
        lambda u: pullback(u.reshape(out.shape))[0].flatten(1),
        size,
    )


def _bidiagonalise(
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    start: Float[Tensor, "batch n"],
    steps: int,
    tol: float,
    shape: torch.Size,
) -> LeadingSingular:
    batch = len(start)
    v, _ = normalise(start, start.new_zeros(batch))
    right, left = v[:, None], start.new_zeros(batch, 0, 1)  # bases [batch, k, n] and [batch, k, m]
    b = start.new_zeros(batch, steps, steps + 1)
    scale = start.new_zeros(batch)  # largest norm met: what is far below it is rounding
    broken = start.isnan().any(dim=1)
    k, error, sigma, y = 0, scale, scale, scale  # there is one step at least
    for k in range(steps):
        u = forward(right[:, k])
        u = orthogonalise(u, left) if k else u
        scale = torch.maximum(scale, lengths(u))
        u, b[:, k, k] = normalise(u, scale)
        left = torch.cat([left, u[:, None]], dim=1) if k else u[:, None]
        v = orthogonalise(backward(u), right)
        v, beta = normalise(v, scale)
        b[:, k, k + 1] = beta
        broken = broken | u.isnan().any(dim=1) | v.isnan().any(dim=1)
        right = torch.cat([right, v[:, None]], dim=1)
        last = k + 1 == steps
        if last or k >= MIN_STEPS - 1:
            error = _ritz_error(b[:, : k + 1, : k + 1], beta)
            _, sigma, y = torch.linalg.svd(b[:, : k + 1, : k + 2], full_matrices=False)
            if last or bool((error <= tol * sigma[:, 0]).all()):
                break
    warn_of_nan(torch.where(broken, torch.nan, scale))
    direction = torch.einsum("bk,bkn->bn", y[:, 0], right)
    norm, error = (torch.where(broken, torch.nan, value) for value in (sigma[:, 0], error))
    return LeadingSingular(norm, direction.reshape(shape), error, k + 1)


def _ritz_error(b: Float[Tensor, "batch k k"], beta: Float[Tensor, " batch"]) -> Tensor:
    """Return the estimated distance of the norm of `b` from that of the Jacobian."""
    x, sigma, _ = torch.linalg.svd(b)
    unit = torch.where(sigma[:, 0] > 0, sigma[:, 0], 1)  # squares of the values may over- or underflow
    residual = beta / unit * x[:, -1, 0].abs()
    gap = 1 - (sigma[:, 1] / unit).square() if b.shape[-1] > 1 else torch.zeros_like(residual)
    quadratic = residual.square() / (2 * gap.clamp_min(torch.finfo(b.dtype).tiny))
    return unit * torch.minimum(residual, quadratic)


@in_any_mode
def logit_jacobian_norm(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    r"""Return $\lVert \partial\, \mathrm{logits} / \partial x \rVert_2$ of each sample, exactly.

    One backward pass a class (vectorised), then the largest singular value of a matrix with as many rows as
    classes. For many outputs `jacobian_norm` is cheaper.

    Args:
        model: Maps a batch to logits `[batch, classes]`, sample by sample (evaluation mode).
        x: Inputs.

    Returns:
        One norm a sample, in the dtype of `x`.

    Raises:
        ValueError: If the model's output is not `[batch, classes]`.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(4, 3)
        >>> norm = logit_jacobian_norm(linear, torch.zeros(2, 4))
        >>> bool(torch.allclose(norm, torch.linalg.matrix_norm(linear.weight, ord=2)))
        True
    """
    check_steady(model)
    check_floating(x)
    with sdpa_kernel(SDPBackend.MATH):
        logits, pullback, *_ = torch.func.vjp(lambda z: outputs(model, z), x.detach())
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 1:
        raise ValueError(
            f"model returned shape {tuple(logits.shape)} for a batch of {len(x)}; [batch, classes] is needed"
        )
    classes = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    unit = classes[:, None].expand(-1, len(x), -1)
    (rows,) = torch.func.vmap(pullback)(unit)  # [class, batch, ...]
    warn_of_nan(rows.transpose(0, 1))
    return spectral_norm(rows.flatten(2).transpose(0, 1)).detach()
