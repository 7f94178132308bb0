r"""The largest eigenvalue of $\mathrm{diag}(p) - p p^\top$ as the root of a secular equation.

Write $a \ge b$ for the two largest entries, $t = \sum_{i \ge 2} p_i$ and $r_i = p_i / b$. The eigenvalue is
$\lambda = b\,(1 + s)$ with $s \ge 0$ the root of

$$s + 1 - a t / b \;=\; (a - b - b s)\, S(s), \qquad S(s) = \sum_{i \ge 2} \frac{r_i^2}{s + 1 - r_i},$$

which is the textbook equation $\sum_i p_i^2 / (p_i - \lambda) = 1$ measured from the pole $p_{(2)}$. Every
term of $S$ is positive and nothing cancels, for rows with a near tie and for rows that are nearly one-hot
alike.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_ITERATIONS = 60  # five are enough in practice; a row that needed more would still converge
CHUNK_ELEMENTS = {"cpu": 2**17, "cuda": 2**26}  # on a CPU a block of rows should stay in the cache


def leading_pair(
    p: Float[Tensor, "*batch n"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Int[Tensor, "*batch two"]]:
    """Return the two largest entries (the second is 0 where `n = 1`) and their positions."""
    top, index = p.topk(min(2, p.shape[-1]), dim=-1)
    first = top[..., 0]
    second = top[..., 1] if top.shape[-1] == 2 else torch.zeros_like(first)
    return first, second, index


def mass_outside(
    p: Float[Tensor, "*batch n"],
    first: Float[Tensor, "*batch"],
    index: Int[Tensor, "*batch 1"],
    eps: float | None = None,
) -> Float[Tensor, "*batch"]:
    """Return $1 - p_{(1)}$ without the cancellation of a nearly one-hot row.

    The sum of the other entries is the better number where the row sums to 1 up to rounding. The derivative
    is that of $1 - p_{(1)}$ in both cases. `eps` is the rounding of the row where it was widened from a
    narrower dtype; that of its dtype by default.
    """
    with torch.no_grad():
        rest = p.scatter(-1, index, 0).sum(dim=-1)
        complement = 1 - first
        rounding = 8 * (torch.finfo(p.dtype).eps if eps is None else eps)
        correction = torch.where((rest - complement).abs() <= rounding, rest - complement, 0)
    return (1 - first) + correction


class GapAboveSecond(torch.autograd.Function):
    r"""$\lambda_{\max}(\mathrm{diag}(p) - p p^\top) - p_{(2)}$ for float64 rows, twice differentiable.

    With $u_i = p_i / (p_i - \lambda)$ an eigenvector is $u$, $p^\top u = 1$, and the derivative of the simple
    eigenvalue is $v_i^2 - 2 (p^\top v) v_i = u_i (u_i - 2) / \lVert u \rVert^2$.
    """

    @staticmethod
    def forward(p: Tensor, eps: float) -> Tensor:
        """Solve each row; rows go in blocks, so memory beyond input and output is bounded.

        `eps` is the rounding of the rows before they were widened to float64.
        """
        rows = p.reshape(-1, p.shape[-1])
        gap = rows.new_empty(len(rows))
        block = max(1, CHUNK_ELEMENTS.get(p.device.type, 2**20) // p.shape[-1])
        for start in range(0, len(rows), block):
            gap[start : start + block] = _solve(rows[start : start + block], eps)
        return gap.reshape(p.shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Keep the row and the root: the eigenvector follows from both in closed form."""
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Return the gradient; ordinary operations of row and root, so it has a derivative of its own."""
        p, gap = ctx.saved_tensors
        slope = _eigenvalue_gradient(p, gap)
        _, _, index = leading_pair(p)
        if index.shape[-1] == 2:
            slope = slope.scatter_add(-1, index[..., 1:], -torch.ones_like(slope[..., :1]))
        return grad_outputs[0][..., None] * slope, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], *args: Any) -> tuple[Tensor, int]:
        """Rows are independent: a mapped dimension is one more batch dimension."""
        p, eps = args
        return GapAboveSecond.apply(p.movedim(in_dims[0], 0), eps), 0


def _solve(p: Float[Tensor, "rows n"], eps: float) -> Float[Tensor, " rows"]:
    """Return $b s$ for each row by interpolating $S(s)$ with one pole, $W / (s + E)$.

    $1/S$ is concave, so the interpolant that matches $S$ and $S'$ lies below $S$ and its root below the true
    one: from the root of the leading 2 x 2 block the iterates rise monotonically, quadratically, without
    safeguard.
    """
    a, b, index = leading_pair(p)
    t = mass_outside(p, a, index[..., :1], eps)
    ordinary = (b > 0) & (a > b)  # at a tie lambda = b, and a one-hot row has J = 0
    a, b, t = (torch.where(ordinary, x, y) for x, y in ((a, 0.5), (b, 0.25), (t, 0.5)))

    r = p.scatter(-1, index[..., :1], 0) / b[:, None]
    r = torch.where(ordinary[:, None], r, 1)
    r2 = r * r
    pole = 1 - r
    d, c = a - b, 1 - a * t / b
    s = _positive_root(c + b, d)
    for _ in range(MAX_ITERATIONS):
        inverse = (s[:, None] + pole).reciprocal_()
        terms = r2 * inverse
        total = terms.sum(dim=-1)
        slope = terms.mul_(inverse).sum(dim=-1)
        shifted = total / slope  # s + E
        shift, weight = shifted - s, total * shifted
        new = _positive_root(c + shift + b * weight, d * weight - c * shift)
        step = (new - s).abs()
        s = new
        # a relative step squares from one iteration to the next: the one just taken ended at rounding level
        if bool((step <= 1e-9 * s + 4 * torch.finfo(s.dtype).eps).all()):
            break
    return torch.where(ordinary, b * s, 0)


def _positive_root(q: Tensor, r: Tensor) -> Tensor:
    """Return the positive root of $s^2 + q s - r$, in the form that does not cancel."""
    disc = (q * q + 4 * r.clamp_min(0)).sqrt()
    return torch.where(q > 0, 2 * r.clamp_min(0) / (q + disc), (disc - q) / 2)


def _eigenvalue_gradient(p: Float[Tensor, "*batch n"], gap: Float[Tensor, "*batch"]) -> Tensor:
    """Return the gradient of the eigenvalue; at an m-fold tie of the largest entry, 1/m on each of them.

    For m = 2 that is the derivative. For m > 2 the eigenvalue is multiple and this is the mean over its
    eigenspace, an element of the subdifferential. At a one-hot row it is -1 on the one, also a subgradient.
    """
    a, b, index = leading_pair(p)
    is_first = torch.zeros_like(p, dtype=torch.bool).scatter(-1, index[..., :1], True)
    tied = (a == b) & (b > 0)
    spread = torch.where(b > 0, b, 1)[..., None]  # any positive number where b = 0: all other entries are 0
    below = a - b - gap  # a - lambda
    distance = gap[..., None] + (b[..., None] - p)  # lambda - p_i; (gap + b) would lose a small gap
    regular = ~is_first & (distance > 0)
    w = torch.where(
        is_first, p, torch.where(regular, -p * below[..., None] / torch.where(regular, distance, spread), 0)
    )
    square = (w * w).sum(dim=-1, keepdim=True)
    slope = w * (w - 2 * below[..., None]) / square
    at_top = (p == a[..., None]).to(p.dtype)
    return torch.where(tied[..., None], at_top / at_top.sum(dim=-1, keepdim=True), slope)
