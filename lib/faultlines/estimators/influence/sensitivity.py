r"""The paper's *intrinsic influence sensitivity* $L_K \lVert y \rVert^2 / \lambda^2$, and what it bounds.

The definition is known second-hand only, without the quantity it is a bound for. With $M = (K + \lambda I)^{-1}$,
whose norm is at most $1 / \lambda$, a change of the kernel by $\Delta$ changes $y^\top M y$, twice the least value
of the ridge objective over $\lambda$, by

$$|y^\top M' y - y^\top M y| = |y^\top M' \Delta M y| \le \lVert \Delta \rVert_2 \lVert y \rVert^2 / \lambda^2,$$

which is $S$ times the size of the perturbation where $\lVert \Delta \rVert_2 \le L_K \lVert \delta \rVert$. That is the
reading of this module. It bounds no single influence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.ntk.ridge import KernelRidge


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
