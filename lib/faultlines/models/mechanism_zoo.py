r"""Further attention mechanisms behind the one interface, by the names that the field gives them: the table `ZOO`.

Each is made as `Attention(dim, heads, mechanism=name)` or `ViT(..., attention=name)`, and is loaded only then. As
everywhere, queries, keys and values are `[batch, head, token, head_dim]`, $d$ is `head_dim`, $N$ the number of keys,
$s_{ij} = q_i \cdot k_j / \sqrt d + B_{ij}$ with a bias $B$, and what the recorder gets as the map is what multiplied
the values.

A map that is a function of scores has a Lipschitz constant in them, in Euclidean norm and row by row, which is said
with each. That says nothing of the layer, whose scores are products; see `faultlines.models.lipschitz_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.attention import (
    Attention,
    MapMechanism,
    at_least_float,
    fused_softmax,
    masked_softmax,
    open_rows,
)
from faultlines.models.lipschitz_attention import CosineAttention, L2Attention, LipsFormerAttention


class _Named(MapMechanism):
    """A map without numbers of its own, which the sizes of the layer do not matter to."""

    per_query = True

    def __init__(
        self, heads: int = 1, head_dim: int = 1, *, bias: Float[Tensor, "... query key"] | None = None
    ) -> None:
        super().__init__(bias)

    def scores(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        r"""Return $q_i \cdot k_j / \sqrt d$, without the bias."""
        return q @ k.mT / math.sqrt(q.shape[-1])


class SparsemaxAttention(_Named):
    r"""Sparsemax, $P_i = \arg\min_{p \in \Delta} \lVert p - s_i \rVert^2 = (s_i - \tau_i)_+$.

    The nearest point of the simplex (Martins and Astudillo 2016), with $\tau_i$ such that the row sums to one; most
    weights are exactly 0. A projection onto a convex set: its Lipschitz constant in the scores is 1, where
    softmax has 1/2. It is piecewise linear in them, and has a kink where a weight reaches 0.
    """

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        return _on_open_rows(sparsemax, self.scores(q, k), self.bias)


class EntmaxAttention(_Named):
    r"""1.5-entmax, $P_{ij} = (s_{ij} / 2 - \tau_i)_+^2$, between softmax and sparsemax.

    The maximiser of $p \cdot s_i$ plus Tsallis' entropy of order 1.5 over the simplex (Peters, Niculae and Martins
    2019, whose package `entmax` is the oracle of the tests). Its Jacobian in the scores is
    $\mathrm{diag}(r) - r r^\top / \sum_j r_j$ with $r = \sqrt p$: positive semidefinite and below
    $\mathrm{diag}(r) \preceq I$, so that its Lipschitz constant is at most 1. Its first derivative is continuous.
    """

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        return _on_open_rows(entmax15, self.scores(q, k), self.bias)


class ReLUAttention(_Named):
    r"""ReLU attention, $P_{ij} = \max(s_{ij}, 0) / N$ (Wortsman et al. 2023, arXiv 2309.08586).

    Its Lipschitz constant in the scores is $1 / N$; rows are not normalised.
    """

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        scores = self.scores(q, k)
        return (scores if self.bias is None else scores + self.bias).relu() / k.shape[-2]


class OffByOneAttention(_Named):
    r"""Softmax with an extra logit of zero, $P_{ij} = e^{s_{ij}} / (1 + \sum_l e^{s_{il}})$.

    A head can attend to nothing, so that no token has to serve as a sink (Miller 2023, "Attention is off by one"; the
    same as torch's `add_zero_attn`). Rows sum to less than 1; the Lipschitz constant in the scores is softmax's, 1/2,
    for the map is part of one of $N + 1$ keys.
    """

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        scores = self.scores(q, k)
        return F.pad(scores if self.bias is None else scores + self.bias, (0, 1)).softmax(-1)[..., :-1]

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output from torch's fused kernel, with a key and a value of zeros."""
        bias = None if self.bias is None else F.pad(self.bias, (0, 1))
        return fused_softmax(q, F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), bias)


class _Softmax(_Named):
    """Softmax's map under a mechanism that is not softmax attention, so that no bound of that is taken for one."""

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return softmax's map."""
        return masked_softmax(self.scores(q, k), self.bias)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax attention from torch's fused kernel."""
        return fused_softmax(q, k, v, self.bias)


class GatedAttention(_Softmax):
    r"""Softmax attention with a sigmoid gate on the output, $\sigma(X W_\theta) \odot \mathrm{softmax}(s) V$.

    The gate behind the weighted sum that Qiu et al. (2025, arXiv 2505.06708, position $G_1$) found best: a function
    of the same tokens as the queries, a number a coordinate, or one a head. Called on `(q, k, v)` alone it is
    softmax attention. The recorder gets softmax's map, and the gate among the terms. $W_\theta$ is drawn as a linear
    layer is, without a bias.

    Args:
        heads: Heads of the layer.
        head_dim: Width of a query.
        each: `"coordinate"` or `"head"`.
        bias: What is added to the scores.

    Raises:
        ValueError: If `each` is neither.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        each: Literal["coordinate", "head"] = "coordinate",
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> None:
        super().__init__(bias=bias)
        if each not in ("coordinate", "head"):
            raise ValueError(f"each={each!r} is not one of 'coordinate', 'head'")
        self.heads = heads
        self.gate = nn.Linear(heads * head_dim, heads * (head_dim if each == "coordinate" else 1), bias=False)

    def from_tokens(
        self, layer: Attention, x: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what it was given, and the gate, `[batch, head, query, 1 or head_dim]`."""
        return q, k, v, self.gate(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).sigmoid()

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `(output, map, terms)`; every derivative exists."""
        output, maps, _ = super().explicit(q, k, v)
        return (output, maps, {}) if gate is None else (output * gate, maps, {"gate": gate})

    def fused(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None = None) -> Tensor:
        """Return the same output from torch's fused kernel."""
        output = super().fused(q, k, v)
        return output if gate is None else output * gate


class DifferentialV2Attention(_Softmax):
    r"""Differential attention, version 2, $(A_1 - \sigma(\lambda) A_2)\, V$ with softmax maps $A_1$ and $A_2$.

    Of Ye et al., as in the public code (microsoft/unilm, `Diff-Transformer-V2`, January 2026): each head has
    a second projection of queries, shares keys and values between its two maps, and takes $\lambda$ from the token
    that asks, a number a head. Unlike the first version there is no schedule, no normalisation of the output
    and no scale, and as many heads as softmax has. Called on `(q, k, v)` alone it is softmax attention. The recorder
    gets the combined map, whose rows sum to $1 - \sigma(\lambda)$ and whose entries **may be negative**; its terms are
    `branch1`, `branch2` and `lambda`, which is $\sigma(\lambda)$.

    Args:
        heads: Heads of the layer.
        head_dim: Width of a query.
        bias: What is added to the scores of both branches.
    """

    def __init__(
        self, heads: int, head_dim: int, *, bias: Float[Tensor, "... query key"] | None = None
    ) -> None:
        super().__init__(bias=bias)
        self.heads = heads
        self.queries = nn.Linear(heads * head_dim, heads * head_dim, bias=False)
        self.share = nn.Linear(heads * head_dim, heads, bias=False)

    def from_tokens(self, layer: Attention, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        r"""Return what it was given, the second queries, and $\sigma(\lambda)$, `[batch, head, query, 1]`."""
        second, share = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.queries, self.share)
        )
        return q, k, v, second, share.sigmoid()

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, second: Tensor | None = None, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `(output, combined map, terms)`; every derivative exists."""
        if second is None or share is None:
            return super().explicit(q, k, v)
        branch1, branch2 = (
            self.weights(at_least_float(of), at_least_float(k)).to(v.dtype) for of in (q, second)
        )
        maps = branch1 - share * branch2
        return maps @ v, maps, {"branch1": branch1, "branch2": branch2, "lambda": share}

    def fused(
        self, q: Tensor, k: Tensor, v: Tensor, second: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Return the same output from two fused calls, one a branch."""
        first = super().fused(q, k, v)
        return first if second is None or share is None else first - share * super().fused(second, k, v)


ZOO: dict[str, Callable[..., Any]] = {
    "l2": L2Attention,
    "cosine": CosineAttention,
    "lipsformer": LipsFormerAttention,
    "sparsemax": SparsemaxAttention,
    "entmax": EntmaxAttention,
    "relu": ReLUAttention,
    "off by one": OffByOneAttention,
    "gated": GatedAttention,
    "differential v2": DifferentialV2Attention,
}


def sparsemax(scores: Float[Tensor, "... key"]) -> Float[Tensor, "... key"]:
    """Return the nearest point of the simplex, of the last axis; the support comes from sorting, once.

    Example:
        >>> sparsemax(torch.tensor([1.0, 0.8, -1.0])).tolist()
        [0.6..., 0.4..., 0.0]
    """
    scores = scores - scores.amax(-1, keepdim=True).detach()
    found = scores.detach().clamp(min=-2)  # what lies 1 below the largest is outside
    ordered, count = found.sort(dim=-1, descending=True).values, _counts(found)
    size = (1 + count * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    inside = found >= ordered.gather(-1, size - 1)
    size = inside.sum(-1, keepdim=True)
    threshold = (torch.where(inside, scores, 0).sum(-1, keepdim=True) - 1) / size
    return torch.where(inside, scores - threshold, 0).relu()


def entmax15(scores: Float[Tensor, "... key"]) -> Float[Tensor, "... key"]:
    """Return 1.5-entmax of the last axis; the support comes from sorting, once.

    Example:
        >>> [round(share, 4) for share in entmax15(torch.tensor([1.0, 1.0, -3.0])).tolist()]
        [0.5, 0.5, 0.0]
    """
    half = (scores - scores.amax(-1, keepdim=True).detach()) / 2
    found = half.detach().clamp(min=-2)  # what lies 1 below the largest is outside
    ordered, count = found.sort(dim=-1, descending=True).values, _counts(found)
    mean = ordered.cumsum(-1) / count
    spread = ordered.square().cumsum(-1) - count * mean.square()
    threshold = mean - ((1 - spread) / count).clamp(min=0).sqrt()
    size = (threshold <= ordered).sum(-1, keepdim=True)
    inside = found >= ordered.gather(-1, size - 1)
    size = inside.sum(-1, keepdim=True)
    mean = torch.where(inside, half, 0).sum(-1, keepdim=True) / size
    apart = torch.where(inside, half - mean, 0)
    threshold = mean - ((1 - apart.square().sum(-1, keepdim=True)) / size).sqrt()
    return torch.where(inside, half - threshold, 0).relu().square()


def _counts(x: Tensor) -> Float[Tensor, " key"]:
    return torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)


def _on_open_rows(
    to_simplex: Callable[[Tensor], Tensor], scores: Tensor, bias: Float[Tensor, "... query key"] | None
) -> Tensor:
    """Return the map of scores with a bias; zeros in a row whose keys are all closed."""
    if bias is None:
        return to_simplex(scores)
    bias, closed = open_rows(bias)
    return to_simplex(scores + bias).masked_fill(closed, 0)
