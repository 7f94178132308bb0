r"""The NTK of a two-layer ReLU network of finite width, in closed form and in blocks of hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.ntk.memory import check_kernel_memory
from faultlines.models.linearized import check_rows

BLOCK = 4096  # hidden units at a time: memory does not grow with the width


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
    counts = a.new_zeros(len(a), len(b))
    for units in weight.split(block):
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
