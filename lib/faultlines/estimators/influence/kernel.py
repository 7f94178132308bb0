r"""Influence in kernel ridge regression, all pairs from one factorisation, and how sensitive it is.

With $M = (K + \lambda I)^{-1}$ and $\alpha = M y$, leaving training sample $i$ out changes the prediction at test
sample $t$ by $-(M k_t)_i\, \alpha_i / M_{ii}$, exactly.

The paper's *intrinsic influence sensitivity* $L_K \lVert y \rVert^2 / \lambda^2$ is known second-hand only, without
the quantity it is a bound for. As $\lVert M \rVert \le 1 / \lambda$, a change of the kernel by $\Delta$ changes
$y^\top M y$, twice the least value of the ridge objective over $\lambda$, by

$$|y^\top M' y - y^\top M y| = |y^\top M' \Delta M y| \le \lVert \Delta \rVert_2 \lVert y \rVert^2 / \lambda^2,$$

which is $S$ times the size of the perturbation where $\lVert \Delta \rVert_2 \le L_K \lVert \delta \rVert$. That is the
reading of this module. It bounds no single influence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.forward import full_float32
from faultlines.estimators.ntk.ridge import KernelRidge, ridge_factor
from faultlines.models.pixel_normalization import check_tensor


@full_float32()
def loo_influence(
    kernel: Float[Tensor, "n n"], test_kernel: Float[Tensor, "t n"], targets: Tensor, ridge: float
) -> Tensor:
    r"""Return the exact leave-one-out influence, $f(x_t) - f^{-i}(x_t)$.

    Removing a row and column from $K + \lambda I$ is a rank-one change of its inverse, which gives the first form
    of the table above. No model is fitted again.

    Args:
        kernel: Training kernel $K$.
        test_kernel: Kernel of test against training rows; row $t$ is $k_t$.
        targets: $y$, `[n]` or `[n, k]`.
        ridge: $\lambda$, for the sum of squares.

    Returns:
        `[n, t]`, or `[n, t, k]` for a matrix of targets.

    Raises:
        ValueError: If shapes disagree or $K + \lambda I$ is singular.

    Example:
        >>> kernel, y = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
        >>> loo_influence(kernel, kernel, y, ridge=1.0)  # alone, each sample predicts half its target
        tensor([[ 0.5000,  0.0000],
                [-0.0000, -0.5000]], dtype=torch.float64)
    """
    _check_shapes(kernel, test_kernel, targets)
    factor = ridge_factor(kernel, ridge)
    least = len(kernel) * torch.finfo(kernel.dtype).eps ** 0.6 * float(kernel.diagonal().max())
    if float(factor.diagonal().min()) ** 2 < least:
        diagonal, weights, alpha = _fit_spectrally(kernel, test_kernel, targets, ridge)
    else:
        diagonal = inverse_diagonal(factor)
        weights, alpha = _fit(factor, test_kernel, targets)
    if alpha.ndim == 1:  # in place: a matrix of this size costs time to make
        return weights.mul_((alpha / diagonal)[:, None])
    return _outer(weights.div_(diagonal[:, None]), alpha)


def inverse_diagonal(lower: Float[Tensor, "n n"], base: int = 128) -> Float[Tensor, " n"]:
    r"""Return the diagonal of $(L L^\top)^{-1}$: the squared lengths of the columns of $L^{-1}$, by halves.

    $\begin{pmatrix} A & \\ B & C \end{pmatrix}^{-1} = \begin{pmatrix} A^{-1} & \\ -C^{-1} B A^{-1} & C^{-1}
    \end{pmatrix}$: a third of the work of solving against the identity, and of the inverse no more is held than
    one corner.

    Args:
        lower: $L$, lower triangular; what stands above its diagonal is not read.
        base: Size that is solved directly.

    Example:
        >>> inverse_diagonal(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([0.5000, 1.0000])
    """
    n, half = len(lower), len(lower) // 2
    if n <= base:
        inverse = torch.linalg.solve_triangular(lower, torch.eye(n).to(lower), upper=False)
        return inverse.square().sum(dim=0)
    a, b, c = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    # two solves with triangles: half the work of products with their inverses, which are dense to a product
    corner = torch.linalg.solve_triangular(c, b, upper=False)
    torch.linalg.solve_triangular(a, corner, upper=False, left=False, out=corner)
    below = torch.linalg.vector_norm(corner, dim=0).square()
    return torch.cat([inverse_diagonal(a, base) + below, inverse_diagonal(c, base)])


def _fit(factor: Tensor, test_kernel: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return $(K + \lambda I)^{-1} k_t$ as columns, and $\alpha$, from the Cholesky factor."""
    columns = targets.to(factor).reshape(len(factor), -1)
    # one solve for both, in place: `cholesky_solve` would copy the factor first
    right = torch.cat([test_kernel, columns.T]).T
    torch.linalg.solve_triangular(factor, right, upper=False, out=right)
    torch.linalg.solve_triangular(factor.T, right, upper=True, out=right)
    t = len(test_kernel)
    return right[:, :t], right[:, t:].reshape(targets.shape)


def _fit_spectrally(
    kernel: Tensor, test_kernel: Tensor, targets: Tensor, ridge: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the diagonal of $M$, $M k_t$ as columns, and $\alpha$, where a factor would lose their digits.

    Eigenvalues below rounding are those of a null space, in which $k_t$ has no part.
    """
    values, vectors = torch.linalg.eigh(kernel)
    there = values > len(kernel) * torch.finfo(kernel.dtype).eps * values[-1]
    inverse = 1 / (torch.where(there, values, 0) + ridge)
    spanned = vectors[:, there]
    weights = spanned @ (inverse[there, None] * (spanned.T @ test_kernel.T))
    alpha = vectors @ (inverse[:, None] * (vectors.T @ targets.to(kernel).reshape(len(kernel), -1)))
    return vectors.square() @ inverse, weights, alpha.reshape(targets.shape)


def _outer(weights: Tensor, alpha: Tensor) -> Tensor:
    r"""Return $w_{it} \alpha_i$, for each column of `alpha`."""
    if alpha.ndim == 1:
        return weights * alpha[:, None]
    return weights[:, :, None] * alpha[:, None, :]


def _check_shapes(kernel: Tensor, test_kernel: Tensor, targets: Tensor) -> None:
    for name, given in {"kernel": kernel, "test_kernel": test_kernel, "targets": targets}.items():
        check_tensor(given, name)
    n = len(kernel)
    if test_kernel.ndim != 2 or test_kernel.shape[1] != n:
        raise ValueError(
            f"test_kernel has shape {tuple(test_kernel.shape)}; it must be [t, {n}], test against training"
        )
    if targets.ndim not in (1, 2) or len(targets) != n:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; it must be [{n}] or [{n}, k]")


@dataclass(frozen=True)
class Sensitivity:
    r"""What a perturbation did to a kernel and to its ridge regression.

    Attributes:
        slope: $\lVert K' - K \rVert_2 / \lVert \delta \rVert$, the least $L_K$ that this perturbation allows.
        bound: $S \lVert \delta \rVert$ with that $L_K$.
        change: $|y^\top M' y - y^\top M y|$, at most the bound.
    """

    slope: float
    bound: float
    change: float


@full_float32()
def influence_sensitivity(
    kernel: Float[Tensor, "n n"],
    moved: Float[Tensor, "n n"],
    targets: Float[Tensor, " n"],
    *,
    ridge: float,
    size: float,
) -> Sensitivity:
    r"""Return slope and bound of the sensitivity that a perturbation shows, and what it changed.

    Args:
        kernel: Training kernel $K$ before.
        moved: Training kernel $K'$ after.
        targets: $y$.
        ridge: $\lambda$, above 0.
        size: $\lVert \delta \rVert$, the length of the perturbation of all inputs together, above 0.

    Raises:
        ValueError: If shapes disagree, or ridge or size are not above 0.

    Example:
        >>> eye, y = torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        >>> influence_sensitivity(eye, 2 * eye, y, ridge=1.0, size=0.5)  # y^T M y falls from 1 to 2/3
        Sensitivity(slope=2.0, bound=2.0, change=0.333...)
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge!r} must be above 0; the bound divides by its square")
    if not size > 0:
        raise ValueError(f"size={size!r} must be above 0; nothing was perturbed")
    if kernel.shape != moved.shape:
        raise ValueError(
            f"kernel and moved have shapes {tuple(kernel.shape)} and {tuple(moved.shape)}; they must agree"
        )
    norm = float(torch.linalg.matrix_norm(moved - kernel, 2))
    values = [float(targets @ KernelRidge(k, targets, ridge).alpha) for k in (kernel, moved)]
    bound = norm * float(targets.square().sum()) / ridge**2
    return Sensitivity(norm / size, bound, abs(values[1] - values[0]))
