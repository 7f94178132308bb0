r"""The infinite-width NTK of a two-layer ReLU network in closed form (Cho & Saul 2009; Arora et al. 2019)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.ntk.memory import check_kernel_memory
from faultlines.models.linearized import check_rows

# arccos has an infinite slope at 1; closer than this the cosine counts as constant when differentiating
EDGE = 1e-10


def relu_ntk(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "t d"] | None = None,
    *,
    train: Literal["first", "both"] = "first",
    block: int = 2048,
) -> Float[Tensor, "n t"]:
    r"""Return the NTK of $\sum_r a_r \sigma(w_r^\top x) / \sqrt m$, $w_r \sim \mathcal{N}(0, I)$, as $m \to \infty$.

    With $\theta$ the angle between the rows, training the first layer gives
    $\mathbb{E}_w[1[w^\top a > 0]\, 1[w^\top b > 0]]\, a^\top b = a^\top b\, (\pi - \theta) / 2\pi$ (Du et al. 2019,
    arXiv 1810.02054; for the attended rows it is the paper's Theorem 4.2), and training the second layer adds
    $\mathbb{E}_w[\sigma(w^\top a)\, \sigma(w^\top b)] = \lVert a \rVert \lVert b \rVert
    (\sin\theta + (\pi - \theta) \cos\theta) / 2\pi$. The first part does not depend on the scale of $w$.

    Differentiable in both arguments; at $\theta = 0$, where the kernel has a kink, the derivative of the angle
    counts as 0.

    Args:
        a: Rows, any length but 0.
        b: Other rows; `a` itself by default, and then the diagonal is exact and the kernel symmetric.
        train: Which layers are trained.
        block: Rows of `a` at a time, where no gradient is asked for.

    Returns:
        `[n, t]`, in the precision of `a`.

    Raises:
        ValueError: If rows are zero or not finite, `train` is unknown, or the kernel does not fit in memory.

    Example:
        >>> relu_ntk(torch.eye(2, dtype=torch.float64))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    if train not in ("first", "both"):
        raise ValueError(f"train={train!r} is not one of 'first', 'both'")
    same, b = b is None, a if b is None else b
    check_rows(a, "a")
    check_rows(b, "b")
    na, nb = (torch.linalg.vector_norm(x, dim=1) for x in (a, b))
    for name, length in (("a", na), ("b", nb)):
        if not (length > 0).all():
            zero = (length == 0).nonzero().flatten()[:5].tolist()
            raise ValueError(f"rows {zero} of {name} are zero; the angle between rows must be defined")
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _kernel(a, b, na, nb, train, 0 if same else None)
    check_kernel_memory(len(a), len(b), dtype=a.dtype, device=a.device, copies=1.5)
    out = a.new_empty(len(a), len(b))
    for start in range(0, len(a), block):
        rows = slice(start, start + block)
        out[rows] = _kernel(a[rows], b, na[rows], nb, train, start if same else None)
    return _mirror(out, block) if same else out


def _mirror(kernel: Tensor, block: int) -> Tensor:
    # a product of rows with themselves is symmetric up to rounding, of which nearly parallel rows make more
    for start in range(0, len(kernel), block):
        stop = start + block
        kernel[start:stop, stop:] = kernel[stop:, start:stop].T
        own = kernel[start:stop, start:stop]
        own.copy_(own.tril() + own.tril(-1).T)
    return kernel


def _kernel(a: Tensor, b: Tensor, na: Tensor, nb: Tensor, train: str, diagonal: int | None) -> Tensor:
    scale = na[:, None] * nb
    inner = a @ b.T
    cosine = inner / scale
    if cosine.requires_grad:
        theta = torch.arccos(cosine.clamp(-1 + EDGE, 1 - EDGE))
    else:
        theta = torch.arccos(cosine.clamp(-1, 1))
        if diagonal is not None:  # rounding of the cosine would be its square root in the angle
            theta.diagonal(diagonal).zero_()
    first = inner * (math.pi - theta) / (2 * math.pi)
    if train == "first":
        return first
    return first + scale * (torch.sin(theta) + (math.pi - theta) * cosine) / (2 * math.pi)
