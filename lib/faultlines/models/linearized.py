r"""Parameter-free attention over a data set: samples attend to samples, and nothing is learned.

Row $i$ of $X \in \mathbb{R}^{n \times d}$ is one sample. With identity queries, keys and values and
$e^a \approx 1 + a$ attention becomes $X X^\top X = X C$ with $C = X^\top X$ (arXiv 2603.13085), a linear map of
each sample that depends on all of them. `reference` is the set attended to; the samples themselves by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.models.pixel_normalization import check_tensor

Rows = Float[Tensor, "t d"]
Attention = Callable[[Tensor, Tensor], Tensor]


def check_rows(x: Tensor, name: str = "x") -> None:
    """Check a matrix of samples.

    Raises:
        ValueError: If it is not a tensor, non-empty, floating, `[n, d]`, of finite numbers.
    """
    check_tensor(x, name)
    if x.ndim != 2 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(
            f"{name} has dtype {x.dtype} and shape {tuple(x.shape)}; it must be floating [n, d], n, d >= 1"
        )
    if not x.isfinite().all():
        raise ValueError(f"{name} holds {int((~x.isfinite()).sum())} values that are not finite")


def unit_rows(x: Rows) -> Rows:
    r"""Return the rows at unit length, $x_i / \lVert x_i \rVert_2$.

    Raises:
        ValueError: If a row is zero (a blank image has no direction) or `x` is no matrix of finite numbers.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    check_rows(x)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if (length == 0).any():
        zero = (length[:, 0] == 0).nonzero().flatten()[:5].tolist()
        raise ValueError(f"rows {zero} of x are zero; a row must have a direction to be normalised")
    return x / length


def linear_attention(x: Rows, reference: Float[Tensor, "n d"] | None = None) -> Rows:
    r"""Return $X (R^\top R)$, the paper's $f_{\mathrm{att}}(X) = X X^\top X$ where $R = X$.

    Costs $O((n + t) d \min(n, d))$: the smaller of the two products is formed, never an $n \times n$ matrix
    where $d < n$.

    Example:
        >>> x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> bool(torch.allclose(linear_attention(x), x @ x.T @ x))
        True
    """
    reference = x if reference is None else reference
    if len(reference) < x.shape[1]:
        return (x @ reference.T) @ reference
    return x @ (reference.T @ reference)


def truncated_attention(x: Rows, reference: Float[Tensor, "n d"] | None = None, *, components: int) -> Rows:
    r"""Return linear attention through the leading singular directions of the reference, $X V_r \Sigma_r^2 V_r^\top$.

    With $R = U \Sigma V^\top$ and all components this is `linear_attention`. The paper says in a remark (second-hand)
    that cutting the small singular values restores convergence: the condition number of what is kept is
    $(\sigma_1 / \sigma_r)^6$.

    Args:
        x: Samples.
        reference: The set attended to.
        components: $r$, from 1 to the rank of the reference.

    Raises:
        ValueError: If `components` is no integer in that range.

    Example:
        >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> truncated_attention(x, components=2).diagonal()
        tensor([27.,  8.,  0.])
    """
    reference = x if reference is None else reference
    _, singular, v = torch.linalg.svd(reference, full_matrices=False)
    rank = int((singular > 1e-10 * singular[0]).sum())
    if isinstance(components, bool) or not isinstance(components, Integral) or not 1 <= components <= rank:
        raise ValueError(
            f"components={components!r} must be an integer from 1 to {rank}, the rank of the reference"
        )
    v = v[:components]
    return (x @ v.T) @ (singular[:components].square()[:, None] * v)


def stacked_attention(
    x: Rows,
    reference: Float[Tensor, "n d"] | None = None,
    *,
    layers: int,
    keys: Literal["input", "output"] = "input",
) -> Rows:
    r"""Return linear attention applied `layers` times.

    Args:
        x: Samples.
        reference: The set attended to.
        layers: How often.
        keys: `"input"` attends to the input in every layer, $X C^k$, whose Gram matrix is $G^{2k+1}$;
            `"output"` attends to the layer's own input, as a stack of layers does, and gives $G^{3^k}$.

    Raises:
        ValueError: If `layers` is no positive integer or `keys` unknown.
    """
    if isinstance(layers, bool) or not isinstance(layers, Integral) or layers < 1:
        raise ValueError(f"layers={layers!r} must be an integer, at least 1")
    if keys not in ("input", "output"):
        raise ValueError(f"keys={keys!r} is not one of 'input', 'output'")
    reference = x if reference is None else reference
    for _ in range(layers):
        x, attended = linear_attention(x, reference), linear_attention(reference)
        reference = attended if keys == "output" else reference
    return x


def softmax_attention(
    x: Rows, reference: Float[Tensor, "n d"] | None = None, *, sharpness: float = 1.0
) -> Rows:
    r"""Return $\mathrm{softmax}(\beta X R^\top) R$, what linear attention is a linearisation of."""
    reference = x if reference is None else reference
    return torch.softmax(sharpness * (x @ reference.T), dim=1) @ reference


class QKV(NamedTuple):
    """Query, key and value matrices, each `[d, d]`."""

    query: Tensor
    key: Tensor
    value: Tensor


def random_qkv(
    dim: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> QKV:
    r"""Draw query, key and value matrices with entries $\mathcal{N}(0, 1/d)$."""
    draw = [torch.randn(dim, dim, generator=generator, dtype=dtype) / dim**0.5 for _ in range(3)]
    return QKV(*(weights.to(device) for weights in draw))


def qkv_attention(x: Rows, reference: Float[Tensor, "n d"] | None = None, *, weights: QKV) -> Rows:
    r"""Return $(X W_Q) (R W_K)^\top (R W_V)$ without an $n \times n$ matrix.

    Example:
        >>> x, eye = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.eye(3)
        >>> bool(torch.allclose(qkv_attention(x, weights=QKV(eye, eye, eye)), linear_attention(x)))
        True
    """
    reference = x if reference is None else reference
    return (x @ weights.query) @ ((reference @ weights.key).T @ (reference @ weights.value))


@dataclass(frozen=True)
class Representation:
    """From images to the rows that a two-layer network sees: flatten, normalise, (centre,) attend, normalise.

    Attributes:
        attention: Map of `(x, reference)`, or None for the plain rows of the baseline.
        centred: Whether the mean row of the reference is subtracted first, and the rows normalised again.

    Example:
        >>> images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> rows = Representation(linear_attention)(images, images)
        >>> rows.shape, bool(torch.allclose(rows.norm(dim=1), rows.new_ones(6)))
        (torch.Size([6, 4]), True)
    """

    attention: Attention | None = None
    centred: bool = False

    def __call__(self, x: Float[Tensor, "t *shape"], reference: Float[Tensor, "n *shape"]) -> Rows:
        """Return unit rows `[t, d]`, differentiable in both arguments.

        Raises:
            ValueError: If an image is blank, or holds a value that is not finite.
        """
        rows, others = unit_rows(x.flatten(1)), unit_rows(reference.flatten(1))
        if self.centred:
            mean = others.mean(dim=0)
            rows, others = unit_rows(rows - mean), unit_rows(others - mean)
        return rows if self.attention is None else unit_rows(self.attention(rows, others))
