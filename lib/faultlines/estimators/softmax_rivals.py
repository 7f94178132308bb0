r"""The textbook bounds of $\lVert \mathrm{diag}(p) - p p^\top \rVert_2$ that $g_1$ is compared with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
