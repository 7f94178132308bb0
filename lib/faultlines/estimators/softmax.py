r"""How steep softmax is: the spectral norm of $J(p) = \mathrm{diag}(p) - p p^\top$ and its bounds.

For $p = \mathrm{softmax}(z)$ the Jacobian $\partial p / \partial z$ is $J(p)$, symmetric and positive
semidefinite.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.secular import GapAboveSecond, leading_pair, mass_outside
from faultlines.models.pixel_normalization import check_tensor


def softmax_jacobian_norm(p: Float[Tensor, "*batch n"], *, check: bool = True) -> Float[Tensor, "*batch"]:
    r"""Return $\lVert \mathrm{diag}(p) - p p^\top \rVert_2$ exactly, in $O(n)$ a row.

    By interlacing the largest eigenvalue lies in $[p_{(2)}, p_{(1)}]$ and is the root there of the secular
    equation $\sum_i p_i^2 / (p_i - \lambda) = 1$, solved to machine precision
    (`faultlines.estimators.secular`).

    The computation runs in float64 and the result has the dtype of `p`. It can be differentiated twice: for a
    simple eigenvalue with unit eigenvector $v$ the gradient is $v_i^2 - 2 (p^\top v) v_i$. At an $m$-fold tie
    of the largest entry the gradient is $1/m$ on each tied entry (for $m > 2$ a subgradient; the second
    derivative there is reported as zero), at a one-hot row it is -1 on the one.

    Args:
        p: Distributions along the last dimension.
        check: Whether to look at the values of `p` first. Turn it off under `torch.func.vmap`.

    Returns:
        The norm of each row, in $[0, 1/2]$.

    Raises:
        ValueError: If rows of `p` are not distributions.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.6, 0.3, 0.1]], dtype=torch.float64)
        >>> softmax_jacobian_norm(p)
        tensor([0.5000, 0.0000, 0.4075], dtype=torch.float64)
        >>> dense = torch.diag(p[2]) - torch.outer(p[2], p[2])
        >>> bool((torch.linalg.matrix_norm(dense, ord=2) - softmax_jacobian_norm(p)[2]).abs() < 1e-15)
        True
    """
    _check_distribution(p, values=check)
    wide = p.double()
    _, second, _ = leading_pair(wide)
    return (second + GapAboveSecond.apply(wide, torch.finfo(p.dtype).eps)).to(p.dtype)


def softmax_jacobian_bound(
    p: Float[Tensor, "*batch n"], k: int = 1, *, check: bool = True
) -> Float[Tensor, "*batch"]:
    r"""Return $g_k(p) = p_{(k)} (1 - p_{(k)} + p_{(k+1)})$, with $p_{(n+1)} = 0$.

    $g_1$ bounds the norm from above, $\lVert J(p) \rVert_2 \le g_1(p) \le 1/2$ (Yudin et al., arXiv
    2507.07814; known to us second-hand, proved again in the chapter). It is exact when all non-zero entries
    but the largest are equal, and never more than a factor $4 - 2\sqrt{2} \approx 1.172$ too large. $g_k$ for
    $k > 1$ is no bound: it is what JaSMin$_k$ divides by.

    Differentiable (also twice), without sorting, and without data-dependent control flow when `check=False`.

    Args:
        p: Distributions along the last dimension.
        k: Which of the family, from 1 to n.
        check: Whether to look at the values of `p` first. Turn it off in training loops and under `vmap`.

    Returns:
        $g_k$ of each row.

    Raises:
        ValueError: If `k` is not in 1..n, or rows of `p` are not distributions.

    Example:
        >>> import torch
        >>> softmax_jacobian_bound(torch.tensor([[0.99, 0.005, 0.003, 0.002], [0.25, 0.25, 0.25, 0.25]]))
        tensor([0.0148, 0.2500])
    """
    _check_distribution(p, values=check)
    n = p.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie between 1 and n={n}")
    top, index = p.topk(min(k + 1, n), dim=-1)
    kth = top[..., k - 1]
    following = top[..., k] if k < n else torch.zeros_like(kth)
    complement = mass_outside(p, kth, index[..., :1]) if k == 1 else 1 - kth
    return kth * (complement + following)


def softmax_jacobian_lower(p: Float[Tensor, "*batch n"], *, check: bool = True) -> Float[Tensor, "*batch"]:
    r"""Return the largest eigenvalue of the leading 2 x 2 block of $J(p)$, a lower bound of its norm.

    With $a = p_{(1)}$, $b = p_{(2)}$ the block has diagonal $a(1-a), b(1-b)$ and off-diagonal $-ab$; half its
    trace plus half $\sqrt{(a-b)^2 (1-a-b)^2 + 4 a^2 b^2}$ has no cancellation. $g_1$ is at most $4 -
    2\sqrt{2}$ times it.

    Args:
        p: Distributions along the last dimension.
        check: Whether to look at the values of `p` first.

    Returns:
        The bound of each row.

    Raises:
        ValueError: If rows of `p` are not distributions.

    Example:
        >>> import torch
        >>> softmax_jacobian_lower(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64))
        tensor(0.4056, dtype=torch.float64)
    """
    _check_distribution(p, values=check)
    a, b, index = leading_pair(p)
    t = mass_outside(p, a, index[..., :1])
    difference, cross = (a - b) * (t - b), 2 * a * b
    flat = (difference == 0) & (cross == 0)  # a one-hot row, where the root has no derivative
    root = torch.hypot(difference, torch.where(flat, 1, cross))
    return (a * t + b * (1 - b) + torch.where(flat, 0, root)) / 2


def _check_distribution(p: Tensor, *, values: bool) -> None:
    check_tensor(p, "p")
    if not p.is_floating_point():
        raise ValueError(f"p has dtype {p.dtype}; a floating dtype is needed")
    if p.ndim < 1 or p.shape[-1] < 1:
        raise ValueError(f"p has shape {tuple(p.shape)}; at least one entry along a last dimension is needed")
    if not values or p.numel() == 0:
        return
    smallest = float(p.detach().min())
    if not smallest >= 0:  # also catches nan
        raise ValueError(f"p has the entry {smallest}; probabilities must be at least 0")
    tolerance = max(1e-5, 8 * torch.finfo(p.dtype).eps)
    total = p.detach().sum(dim=-1, dtype=torch.promote_types(p.dtype, torch.float32))
    off = float((total - 1).abs().max())
    if not off <= tolerance:
        raise ValueError(
            f"p has a row whose sum differs from 1 by {off:.3g}; at most {tolerance:.3g} is allowed"
        )


def _leader_and_tail(p: Tensor) -> tuple[Tensor, Tensor]:
    if p.ndim < 1 or p.shape[-1] < 1:
        raise ValueError(f"p has shape {tuple(p.shape)}; at least one entry along a last dimension is needed")
    # 1 - a is the sum of the others: subtracting a nearly one-hot leader from 1 would lose every digit
    ordered = p.sort(dim=-1, descending=True).values
    return ordered[..., 0], ordered[..., 1:]


def softmax_jacobian_frobenius(p: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return the Frobenius norm, $\bigl(\sum_i p_i^2 (1 - p_i)^2 + \sum_{i \ne j} p_i^2 p_j^2\bigr)^{1/2}$.

    Example:
        >>> import torch
        >>> softmax_jacobian_frobenius(torch.tensor([0.5, 0.5]))
        tensor(0.5000)
    """
    leader, tail = _leader_and_tail(p)
    scale = (
        tail[..., :1] if tail.shape[-1] else torch.zeros_like(leader)[..., None]
    )  # squares must not underflow
    r = tail / torch.where(scale > 0, scale, 1)
    squares = r.square().sum(dim=-1)
    diagonal = (leader * r.sum(dim=-1)).square() + (r * (1 - tail)).square().sum(dim=-1)
    others = scale[..., 0].square() * (squares.square() - r.pow(4).sum(dim=-1)).clamp_min(0)
    return scale[..., 0] * (diagonal + 2 * leader.square() * squares + others).sqrt()


def softmax_jacobian_gershgorin(p: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return the top of the Gershgorin discs, $\max_i 2 p_i (1 - p_i)$.

    Example:
        >>> import torch
        >>> softmax_jacobian_gershgorin(torch.tensor([0.25, 0.75]))
        tensor(0.3750)
    """
    leader, tail = _leader_and_tail(p)
    first = 2 * leader * tail.sum(dim=-1)
    return torch.cat([first[..., None], 2 * tail * (1 - tail)], dim=-1).amax(dim=-1)


def softmax_jacobian_trace(p: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return the trace, $\sum_i p_i (1 - p_i)$, which bounds the norm since the matrix is positive semidefinite.

    Example:
        >>> import torch
        >>> softmax_jacobian_trace(torch.tensor([0.5, 0.5]))
        tensor(0.5000)
    """
    leader, tail = _leader_and_tail(p)
    return leader * tail.sum(dim=-1) + (tail * (1 - tail)).sum(dim=-1)
