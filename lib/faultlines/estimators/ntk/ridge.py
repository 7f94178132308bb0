"""Kernel ridge regression: what a wide network predicts at the end of training, and how much it can fit."""

from __future__ import annotations

from numbers import Real

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.estimators.forward import full_float32
from faultlines.models.pixel_normalization import check_tensor


def check_kernel(kernel: Tensor, name: str = "kernel") -> None:
    """Check a kernel matrix.

    Raises:
        ValueError: If it is not square, symmetric and finite.
    """
    check_tensor(kernel, name)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not kernel.numel():
        raise ValueError(f"{name} has shape {tuple(kernel.shape)}; it must be square, [n, n]")
    # one product with a fixed vector either way: all of the matrix is read twice, none of it copied
    probe = torch.cos(torch.arange(1, len(kernel) + 1, device=kernel.device, dtype=kernel.dtype))
    rows, columns = kernel @ probe, kernel.T @ probe
    if not rows.isfinite().all():
        bad = (~kernel.isfinite()).sum()
        raise ValueError(f"{name} holds {int(bad)} values that are not finite")
    scale = torch.maximum(rows.abs(), kernel.diagonal().abs()).max()
    asymmetry = float((rows - columns).abs().max() / scale.clamp_min(torch.finfo(kernel.dtype).tiny))
    if asymmetry > 1e3 * len(kernel) ** 0.5 * torch.finfo(kernel.dtype).eps:
        raise ValueError(f"{name} is asymmetric (by {asymmetry:.1e} of its scale); it must be symmetric")


def check_ridge(ridge: float) -> None:
    """Check a ridge.

    Raises:
        ValueError: If it is no finite number of at least 0.
    """
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge={ridge!r} must be a finite number, at least 0")


def ridge_factor(kernel: Float[Tensor, "n n"], ridge: float) -> Float[Tensor, "n n"]:
    r"""Return the Cholesky factor of $K + \lambda I$.

    Raises:
        ValueError: If kernel or ridge are not as stated, or the sum is singular at working precision; it names
            duplicate rows, if these are the reason, and the smallest ridge that helps.
    """
    check_ridge(ridge)
    check_kernel(kernel)
    shifted = kernel.clone()
    shifted.diagonal().add_(ridge)
    # LAPACK works by columns: the transpose of a symmetric matrix in rows is that matrix in columns, factored in place
    factor, failed = torch.linalg.cholesky_ex(
        shifted.T, out=(shifted.T, torch.empty((), dtype=torch.int32, device=kernel.device))
    )
    pivots = factor.diagonal()
    enough = len(kernel) * torch.finfo(kernel.dtype).eps * float(kernel.diagonal().max())
    if int(failed) or float(pivots.min()) ** 2 <= enough:
        raise ValueError(
            f"ridge={ridge!r} leaves the kernel of {len(kernel)} rows singular{name_duplicates(kernel)}; a ridge of at "
            f"least {10 * enough:.1e} is needed"
        )
    return factor


class KernelRidge:
    r"""$f(x) = K(x, X)\, (K + \lambda I)^{-1} y$.

    The limit of gradient descent on
    $\frac{1}{2} \sum_i (f(x_i) - y_i)^2 + \frac{\lambda}{2} \lVert W - W_0 \rVert^2$ for the linearised network
    with $f_0 = 0$ (Zhang & Zhang 2022, arXiv 2112.08297). The loss is a *sum*: with a mean the same $\lambda$
    means $n \lambda$ here.

    Args:
        kernel: Training kernel.
        targets: `[n]` or `[n, k]`.
        ridge: $\lambda$.

    Attributes:
        alpha: $(K + \lambda I)^{-1} y$, of the shape of the targets.

    Raises:
        ValueError: If shapes disagree or the system is singular.

    Example:
        >>> fit = KernelRidge(torch.eye(2), torch.tensor([1.0, -1.0]), ridge=1.0)
        >>> fit(torch.tensor([[1.0, 0.0]]))
        tensor([0.5000])
    """

    @full_float32()
    def __init__(self, kernel: Float[Tensor, "n n"], targets: Tensor, ridge: float) -> None:
        if len(targets) != len(kernel):
            raise ValueError(f"targets has {len(targets)} rows and kernel {len(kernel)}; they must agree")
        self.factor = ridge_factor(kernel, ridge)
        columns = targets.to(kernel).reshape(len(kernel), -1)
        self.alpha = torch.cholesky_solve(columns, self.factor).reshape(targets.shape)

    @full_float32()
    def __call__(self, kernel: Float[Tensor, "t n"]) -> Tensor:
        """Return predictions from the kernel of test against training rows."""
        return kernel @ self.alpha


@full_float32()
def match_ridge(kernel: Float[Tensor, "n n"], dimension: float) -> float:
    """Return the ridge at which a kernel has a given effective dimension.

    Args:
        kernel: The kernel.
        dimension: The effective dimension wanted, above 0 and below the kernel's rank.

    Raises:
        ValueError: If no ridge gives that dimension.

    Example:
        >>> round(match_ridge(torch.eye(4, dtype=torch.float64), 2.0), 6)
        1.0
    """
    check_kernel(kernel)
    values = torch.linalg.eigvalsh(kernel).clamp_min(0)
    top = float(values.max())
    low, high = 1e-14 * top, 1e14 * top
    if not _dimension(values, high) < dimension < _dimension(values, low):
        raise ValueError(
            f"dimension={dimension!r} must lie between {_dimension(values, high):.2g} and "
            f"{_dimension(values, low):.6g}, what a ridge can give this kernel of {len(kernel)} rows"
        )
    while high / low > 1 + 1e-12:  # the dimension falls monotonically: bisect on a logarithmic scale
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _dimension(values, middle) > dimension else (low, middle)
    return (low * high) ** 0.5


@full_float32()
def kernel_alignment(kernel: Float[Tensor, "n n"], targets: Float[Tensor, " n"]) -> float:
    r"""Return $y^\top K y / (\lVert K \rVert_F \lVert y \rVert^2)$ (Cristianini et al. 2001), in [0, 1].

    Example:
        >>> y = torch.tensor([1.0, -1.0])
        >>> round(kernel_alignment(torch.outer(y, y), y), 6)
        1.0
    """
    check_kernel(kernel)
    y = targets.to(kernel)
    return float(y @ kernel @ y / (torch.linalg.matrix_norm(kernel) * (y @ y)))


def _dimension(values: Tensor, ridge: float) -> float:
    values = values[values > 0]
    return float((values / (values + ridge)).sum())


def name_duplicates(kernel: Float[Tensor, "n n"]) -> str:
    """Return words that name two duplicate rows, or nothing where there are none."""
    # rows i and j coincide in the feature space where K_ii + K_jj - 2 K_ij = 0
    own = kernel.diagonal()
    gap = own[:, None] + own - 2 * kernel
    gap.fill_diagonal_(float("inf"))
    least = int(gap.argmin())
    i, j = sorted(divmod(least, len(kernel)))
    if float(gap.flatten()[least]) > 1e-12 * float(own.max()):
        return ""
    return f" (rows {i} and {j} are duplicates)"


def signed_targets(y: Int64[Tensor, " n"], dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
    """Return -1 for the smaller and +1 for the larger of two labels.

    Raises:
        ValueError: If there are not exactly two labels.

    Example:
        >>> signed_targets(torch.tensor([3, 8, 3]))
        tensor([-1.,  1., -1.], dtype=torch.float64)
    """
    found = y.unique()
    if len(found) != 2:
        raise ValueError(f"y has the labels {found.tolist()[:12]}; a binary task must have exactly two")
    return torch.where(y == found[1], 1.0, -1.0).to(dtype)


def centred_one_hot(
    y: Int64[Tensor, " n"], classes: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "n k"]:
    r"""Return one-hot rows minus $1/k$.

    Raises:
        ValueError: If a label is outside 0 to `classes - 1`.

    Example:
        >>> centred_one_hot(torch.tensor([1]), 2)
        tensor([[-0.5000,  0.5000]], dtype=torch.float64)
    """
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"y runs from {int(y.min())} to {int(y.max())}; labels must lie in 0 to {classes - 1}"
        )
    return torch.nn.functional.one_hot(y, classes).to(dtype) - 1 / classes


def component_target(
    train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], component: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " t"]]:
    """Return the score on one principal component of the centred training rows, at unit variance.

    Args:
        train: Training rows, which define the component.
        test: Test rows.
        component: 1 for the leading one.

    Raises:
        ValueError: If the training rows have no such component.
    """
    mean = train.mean(dim=0)
    _, s, v = torch.linalg.svd(train - mean, full_matrices=False)
    rank = int((s > 1e-10 * s[0]).sum())
    if not 1 <= component <= rank:
        raise ValueError(f"component={component!r} must lie in 1 to {rank}, the rank of the training rows")
    axis = v[component - 1]
    scores = (train - mean) @ axis
    return scores / scores.std(), ((test - mean) @ axis) / scores.std()
