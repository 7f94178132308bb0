"""Extreme eigenvalues of a batch of symmetric matrices from products with them, by the Lanczos process.

A Hessian is indefinite. Power iteration on one goes to the eigenvalue of largest *magnitude*, which may be
negative, and stays undecided where two of opposite sign are about as large; Lanczos finds both ends at the same
cost, and its estimate is the best over the whole Krylov space instead of its last vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonalise(w: Float[Tensor, "batch n"], basis: Float[Tensor, "batch k n"]) -> Tensor:
    """Remove the part in the span of `basis`; twice is enough (Giraud et al. 2005).

    Example:
        >>> orthogonalise(torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3)[None, :2])
        tensor([[0., 0., 3.]])
    """
    for _ in range(2):
        w = w - torch.einsum("bk,bkn->bn", torch.einsum("bkn,bn->bk", basis, w), basis)
    return w


def lengths(w: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """Return Euclidean lengths whose squares neither over- nor underflow."""
    largest = w.abs().amax(dim=1) if w.shape[1] else w.new_zeros(len(w))
    largest = torch.where(largest > 0, largest, 1)
    return largest * (w / largest[:, None]).norm(dim=1)


def normalise(w: Float[Tensor, "batch n"], scale: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """Return unit vectors and lengths; rounding next to `scale` becomes zero, so that the span ends there."""
    size = lengths(w)
    size = torch.where(size > 16 * torch.finfo(w.dtype).eps * scale, size, 0)
    unit = w / torch.where(size > 0, size, 1)[:, None]
    return unit * (size > 0)[:, None], size


MIN_STEPS = 12  # before, two large values that lie close look like one, and the gap says nothing


WINDOW = 3  # steps over which the growth of a value is looked at


End = Literal["top", "magnitude"]


@dataclass(frozen=True)
class Eigenpairs:
    r"""Leading eigenvalues of each matrix of a batch, and how well they are known.

    Attributes:
        values: `[batch, k]`, the largest first: largest algebraically, or in magnitude (and then signed).
        vectors: Unit eigenvectors, `[batch, k, n]`.
        errors: Estimated error of each value, `[batch, k]`; no bound. As a rule it is too large, but it is too
            small where the start hardly touches a direction or the leading values crowd together.
        lowest: The smallest eigenvalue met, `[batch]`: an upper bound of the smallest up to rounding.
        steps: Products taken.
    """

    values: Float[Tensor, "batch k"]
    vectors: Float[Tensor, "batch k n"]
    errors: Float[Tensor, "batch k"]
    lowest: Float[Tensor, " batch"]
    steps: int


@torch.no_grad()
def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Float[Tensor, "batch n"],
    *,
    k: int = 1,
    steps: int = 64,
    tol: float = 1e-2,
    end: End = "top",
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    r"""Return the $k$ leading eigenvalues of each symmetric matrix $H_b$, given $v \mapsto H v$.

    After $m$ steps $H Q_m = Q_m T_m + \beta_m q_{m+1} e_m^\top$ with orthonormal $Q_m$ (fully reorthogonalised) and
    tridiagonal $T_m$. An eigenvalue $\theta$ of $T_m$ with eigenvector $s$ has a residual $\rho = \beta_m \lvert s_m
    \rvert$; its error is estimated by $\min(\rho, \max(\rho^2 / \gamma, \Delta))$. Here $\gamma$ is the gap to the
    nearest other value of $T_m$, less that one's own residual (Parlett, The Symmetric Eigenvalue Problem, 1980,
    chapter 11), and $\Delta$ what the last three steps added: leading values that crowd together look like one at
    first.

    The largest value is never too large, up to rounding. Where the Krylov space ends early, the process goes on from
    a fresh random direction, so that multiple eigenvalues are found, too.

    Args:
        product: Maps `[batch, n]` to the products, row by row.
        start: Starting directions, not zero; random ones touch every eigenvector.
        k: How many eigenvalues.
        steps: At most so many products.
        tol: Relative accuracy aimed at: stop when all estimated errors are below `tol` times the leading value,
            after at least twelve steps. 0 takes all steps.
        end: `"top"` for the largest algebraically, `"magnitude"` for the largest absolute values.
        generator: Source of fresh directions; seeded with 0 by default.

    Returns:
        Values, vectors, error estimates; NaN for a matrix whose products are not finite.

    Raises:
        ValueError: If a number is out of range or `end` is unknown.

    Example:
        >>> d = torch.tensor([3.0, -5.0, 1.0, 0.5])
        >>> start = torch.ones(1, 4)
        >>> for end in ("top", "magnitude"):
        ...     found = lanczos(lambda v: v * d, start, end=end)
        ...     print(round(found.values.item(), 4), round(found.lowest.item(), 4))
        3.0 -5.0
        -5.0 -5.0
    """
    batch, n = start.shape
    _check(n, k, steps, tol, end)
    steps = min(max(steps, k), n)
    generator = torch.Generator(start.device).manual_seed(0) if generator is None else generator
    q, length = normalise(start, start.new_zeros(batch))
    broken = ~(length > 0)
    basis = q[:, None]
    t = start.new_zeros(batch, steps, steps)
    m, pairs = 0, cast(Eigenpairs, None)  # there is one step at least
    scale = start.new_zeros(batch)  # largest product met: what is far below it is rounding
    for m in range(steps):
        w = product(basis[:, m])
        broken = broken | ~w.isfinite().all(dim=1)
        w = torch.where(broken[:, None], 0, w)
        scale = torch.maximum(scale, lengths(w))
        t[:, m, m] = (w * basis[:, m]).sum(dim=1)
        w, beta = normalise(orthogonalise(w, basis), scale)
        last = m + 1 == steps
        if last or m + 1 >= max(MIN_STEPS, k):
            pairs = _ritz(t[:, : m + 1, : m + 1], beta, basis, k, end)
            leading = pairs.values[:, :1].abs()
            if last or bool(((pairs.errors <= tol * leading) | broken[:, None]).all()):
                break
        if not bool((beta > 0).all()):
            fresh = torch.randn(start.shape, generator=generator, device=start.device, dtype=start.dtype)
            fresh, _ = normalise(orthogonalise(fresh, basis), scale.new_zeros(batch))
            w = torch.where((beta > 0)[:, None], w, fresh)
        t[:, m, m + 1] = t[:, m + 1, m] = beta
        basis = torch.cat([basis, w[:, None]], dim=1)
    nan = torch.where(broken, torch.nan, 0.0).to(start.dtype)
    return Eigenpairs(
        pairs.values + nan[:, None],
        pairs.vectors + nan[:, None, None],
        pairs.errors + nan[:, None],
        pairs.lowest + nan,
        m + 1,
    )


def _ritz(
    t: Float[Tensor, "batch m m"],
    beta: Float[Tensor, " batch"],
    basis: Float[Tensor, "batch m n"],
    k: int,
    end: End,
) -> Eigenpairs:
    theta, s = torch.linalg.eigh(t)  # rising
    order = (theta if end == "top" else theta.abs()).argsort(dim=1, descending=True)[:, :k]
    values = theta.gather(1, order)
    residuals = beta[:, None] * s[:, -1].abs()
    residual = residuals.gather(1, order)
    # a neighbour is where it is up to its own residual
    distance = (theta[:, None, :] - values[:, :, None]).abs() - residuals[:, None, :]  # [batch, k, m]
    distance.scatter_(2, order[:, :, None], torch.inf)  # a value is no neighbour of its own
    gap = distance.amin(dim=2).clamp_min(torch.finfo(t.dtype).tiny)
    errors = torch.minimum(residual, torch.maximum(residual * (residual / gap), _growth(t, values, k, end)))
    coefficients = s.gather(2, order[:, None, :].expand(-1, s.shape[1], -1))
    return Eigenpairs(
        values,
        torch.einsum("bmk,bmn->bkn", coefficients, basis[:, : t.shape[1]]),
        errors,
        theta[:, 0],
        t.shape[1],
    )


def _growth(t: Float[Tensor, "batch m m"], values: Tensor, k: int, end: End) -> Float[Tensor, "batch k"]:
    earlier = t.shape[1] - WINDOW
    if earlier < k:
        return torch.full_like(values, torch.inf)
    theta = torch.linalg.eigvalsh(t[:, :earlier, :earlier])
    order = (theta if end == "top" else theta.abs()).argsort(dim=1, descending=True)[:, :k]
    return (values - theta.gather(1, order)).abs()


def _check(n: int, k: int, steps: int, tol: float, end: str) -> None:
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= n:
        raise ValueError(f"k={k!r} must lie between 1 and the number of coordinates, {n}, and be an integer")
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps={steps!r} must be an integer, at least 1")
    if not tol >= 0:
        raise ValueError(f"tol={tol} must be at least 0")
    if end not in ("top", "magnitude"):
        raise ValueError(f"end={end!r} is not one of 'top', 'magnitude'")
