"""The NTK of a two-layer ReLU network, of infinite width in closed form and of finite width in blocks of units.

The closed form is that of Cho & Saul (2009) and Arora et al. (2019).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.forward import full_float32
from faultlines.models.linearized import check_rows

CPU = torch.device("cpu")


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_kernel_memory(
    rows: int,
    columns: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device = CPU,
    copies: float = 3.0,
    available: int | None = None,
) -> None:
    """Check that a kernel matrix and its temporaries fit.

    Args:
        rows: Rows of the kernel.
        columns: Columns.
        dtype: Precision.
        device: Where.
        copies: How many matrices of this size the computation holds at its peak.
        available: Free bytes; asked of the machine by default.

    Raises:
        ValueError: If they do not fit; it says the size, what is free, and the block of rows that fits.

    Example:
        >>> check_kernel_memory(10**6, 10**6, available=8 * 10**9)
        Traceback (most recent call last):
        ...
        ValueError: a kernel of 1000000 x 1000000 torch.float64 takes 8e+03 GB (2.4e+04 GB with temporaries) and
        8 GB are free on cpu: blocks of 333 rows fit, or a square kernel of n = 18257
    """
    free = available_bytes(device) if available is None else available
    item = torch.empty((), dtype=dtype).element_size()
    need = rows * columns * item
    if need * copies > free:
        block, side = int(free / (copies * columns * item)), int((free / (copies * item)) ** 0.5)
        raise ValueError(
            f"a kernel of {rows} x {columns} {dtype} takes {need / 1e9:.2g} GB ({copies * need / 1e9:.2g} GB with "
            f"temporaries) and {free / 1e9:.2g} GB are free on {device}: blocks of {block} rows fit, or a square "
            f"kernel of n = {side}"
        )


# arccos has an infinite slope at 1; closer than this the cosine counts as constant when differentiating
EDGE = 1e-10
HALF = (torch.float16, torch.bfloat16)  # computed in float32: products and counts overflow
PAIRS = 2**14  # of nearly parallel rows at a time


@full_float32()
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
    if a.dtype in HALF:
        whole = relu_ntk(a.float(), None if same else b.float(), train=train, block=block)
        return whole.to(a.dtype)
    na, nb = (torch.linalg.vector_norm(x, dim=1) for x in (a, b))
    for name, length in (("a", na), ("b", nb)):
        if not (length > 0).all():
            zero = (length == 0).nonzero().flatten()[:5].tolist()
            raise ValueError(f"rows {zero} of {name} are zero; the angle between rows must be defined")
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _kernel(a, b, na, nb, train, 0 if same else None)
    check_kernel_memory(len(a), len(b), dtype=a.dtype, device=a.device, copies=1.5)
    out = a.new_empty(len(a), len(b))
    for start in range(0, len(a), int(block)):
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


def _half_angles(theta: Tensor, cosine: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""Replace angles next to 0 and $\pi$, of whose digits arccos loses half, by $2 \arctan(|u - v| / |u + v|)$."""
    near = cosine.detach().abs() > 1 - 64 * torch.finfo(cosine.dtype).eps ** 0.5
    for i, j in zip(*(index.split(PAIRS) for index in near.nonzero(as_tuple=True)), strict=True):
        u, v = a[i], b[j]
        apart, sum_of = (torch.linalg.vector_norm(w, dim=1) for w in (u - v, u + v))
        theta.index_put_((i, j), 2 * torch.atan2(apart, sum_of))
    return theta


def _kernel(a: Tensor, b: Tensor, na: Tensor, nb: Tensor, train: str, diagonal: int | None) -> Tensor:
    scale = na[:, None] * nb
    inner = a @ b.T
    cosine = inner / scale
    edge = EDGE if cosine.requires_grad else 0.0
    theta = _half_angles(
        torch.arccos(cosine.clamp(-1 + edge, 1 - edge)), cosine, a / na[:, None], b / nb[:, None]
    )
    if diagonal is not None and not cosine.requires_grad:
        theta.diagonal(diagonal).zero_()
    first = inner * (math.pi - theta) / (2 * math.pi)
    if train == "first":
        return first
    return first + scale * (torch.sin(theta) + (math.pi - theta) * cosine) / (2 * math.pi)


BLOCK = 4096  # hidden units at a time: memory does not grow with the width


@full_float32()
def finite_relu_ntk(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "t d"] | None = None,
    *,
    weight: Float[Tensor, "m d"],
    block: int = BLOCK,
) -> Float[Tensor, "n t"]:
    r"""Return $K_m(a, b) = a^\top b\, \frac{1}{m} \sum_r 1[w_r^\top a > 0]\, 1[w_r^\top b > 0]$.

    This is the first-layer NTK of `TwoLayerReLU` at the given weights, whatever its signs, since $a_r^2 = 1$.

    Args:
        a: Rows.
        b: Other rows, `a` by default.
        weight: Hidden weights, initial or trained.
        block: Hidden units at a time.

    Returns:
        `[n, t]`.

    Raises:
        ValueError: If rows or weights are no finite matrices of one dimension, a row is zero, or memory does not do.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> finite_relu_ntk(a, weight=torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """
    b = a if b is None else b
    _check(a, b, weight.shape[1])
    check_rows(weight, "weight")
    if a.dtype in HALF:
        rows = (a.float(), None if b is a else b.float())
        return finite_relu_ntk(*rows, weight=weight.float(), block=block).to(a.dtype)
    counts = a.new_zeros(len(a), len(b))
    for units in weight.split(int(block)):
        active = _active(a, units)
        other = active if b is a else _active(b, units)
        counts += (active @ other.T).to(a.dtype)
    return counts.mul_(a @ b.T).div_(len(weight))


def kernels_by_width(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "t d"] | None = None,
    *,
    widths: Sequence[int],
    generator: torch.Generator,
    block: int = BLOCK,
) -> Iterator[tuple[int, Float[Tensor, "n t"]]]:
    r"""Yield $(m, K_m)$ for growing widths of one random network: each width contains the one before.

    All widths together cost as much as the largest. Weights are drawn from $\mathcal{N}(0, I)$, of which only the
    direction matters, and forgotten block by block. Where there are fewer rows than dimensions they are drawn in the
    span of the rows: what is orthogonal to it moves no unit.

    Args:
        a: Rows.
        b: Other rows, `a` by default.
        widths: Increasing widths.
        generator: Source of the weights, on the CPU, so that every device sees the same network.
        block: Hidden units at a time.

    Yields:
        Width and kernel `[n, t]`.

    Raises:
        ValueError: If the widths do not increase from at least 1, or rows are not as stated.
    """
    b = a if b is None else b
    _check(a, b, a.shape[1])
    if not widths or widths[0] < 1 or any(m >= n for m, n in pairwise(widths)):
        raise ValueError(f"widths={list(widths)!r} must increase from at least 1")
    counts, inner, done = a.new_zeros(len(a), len(b)), a @ b.T, 0
    leading = len(b) <= len(a) and torch.equal(a[: len(b)], b)  # then its units need not be looked at twice
    every = a if leading else torch.cat([a, b])
    if len(every) < a.shape[1]:
        every = every @ torch.linalg.qr(every.T).Q
    a, b = every[: len(a)], None if leading else every[len(a) :]
    for width in widths:
        while done < width:
            size = min(block, width - done)
            units = torch.randn(size, a.shape[1], generator=generator, dtype=a.dtype).to(a.device)
            active = _active(a, units)
            other = active[: len(inner.T)] if b is None else _active(b, units)
            counts += (active @ other.T).to(a.dtype)
            done += size
        yield width, counts * inner / width


def _check(a: Tensor, b: Tensor, dim: int) -> None:
    check_rows(a, "a")
    check_rows(b, "b")
    if not a.shape[1] == b.shape[1] == dim:
        raise ValueError(
            f"a, b and weight have {a.shape[1]}, {b.shape[1]} and {dim} columns; they must agree"
        )
    for name, rows in (("a", a), ("b", b)):
        if not (live := rows.any(dim=1)).all():
            zero = (~live).nonzero().flatten()[:5].tolist()
            raise ValueError(f"rows {zero} of {name} are zero; no unit tells a zero row's side")
    check_kernel_memory(len(a), len(b), dtype=a.dtype, device=a.device)


def _active(rows: Tensor, units: Tensor) -> Tensor:
    # signs need the full precision of nearly collinear rows; counts of a block are exact in float32
    return (rows @ units.T > 0).float()
