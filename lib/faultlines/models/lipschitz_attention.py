r"""Attention whose scores stay bounded, or whose output has a Lipschitz constant: cosines and distances.

A layer with scores $q_i \cdot k_j$ of unbounded tokens has no Lipschitz constant (Kim et al. 2021, Theorem 3.1). Those
two of these that have one give it by `bound(layer, tokens)`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from scipy.special import lambertw
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.attention import Attention, MapMechanism, at_least_float, fused_softmax, masked_softmax

LEAST_TEMPERATURE = 0.01  # of cosine attention, as in Swin v2


class CosineAttention(MapMechanism):
    r"""Scaled cosine attention, $P = \mathrm{softmax}(\cos(q_i, k_j) / \tau_h + B)$ with a temperature a head.

    That of Swin v2 (Liu et al. 2022, eq. 2): $1/\tau_h$ is learnt, starts at 10 and is at most 100. Scores are bounded
    by $1/\tau_h$, whatever the tokens; but where a query is short its direction turns fast, and so there is no
    Lipschitz constant. `LipsFormerAttention` has one.

    Args:
        heads: Heads of the layer, each with its temperature.
        head_dim: Width of a query; does not matter.
        bias: $B$; see `MapMechanism`.
    """

    per_query = True

    def __init__(
        self, heads: int, head_dim: int = 1, *, bias: Float[Tensor, "... query key"] | None = None
    ) -> None:
        super().__init__(bias)
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))

    def turned(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit queries, times the scale, and unit keys."""
        scale = self.log_scale.clamp(max=-math.log(LEAST_TEMPERATURE)).exp()
        q, k = (F.normalize(at_least_float(t), dim=-1) for t in (q, k))
        return q * scale.to(q.dtype), k

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        q, k = self.turned(q, k)
        return masked_softmax(q @ k.mT, self.bias)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output from torch's fused kernel."""
        dtype = v.dtype
        q, k = self.turned(q, k)
        return fused_softmax(q, k, v.to(q.dtype), self.bias, 1.0).to(dtype)


class LipsFormerAttention(MapMechanism):
    r"""LipsFormer's scaled cosine attention, $\nu\, \mathrm{softmax}(\tau\, \hat Q \hat K^\top + B)\, \hat V$.

    With $\hat x = x / \sqrt{\lVert x \rVert^2 + \epsilon}$ row by row, of the values too (Qi et al. 2023, arXiv
    2304.09856). For $N$ tokens and $\epsilon > 0$ it is Lipschitz in Frobenius norm:

    $$\mathrm{Lip}(q, k, v \mapsto o) \le \nu\, \epsilon^{-1/2} \sqrt{\tau^2 + N \tau^2 + N}.$$

    *Proof.* The Jacobian of $x \mapsto \hat x$ has norm at most $\epsilon^{-1/2}$. With $m_i = \sum_j P_{ij} \hat v_j$,

    $$\mathrm{d} m_i = \tau \sum_j P_{ij} (\hat v_j - m_i)(\hat k_j \cdot \mathrm{d}\hat q_i
    + \hat q_i \cdot \mathrm{d}\hat k_j) + \sum_j P_{ij}\, \mathrm{d}\hat v_j.$$

    The first part is a covariance of vectors of length at most 1 and has norm at most
    $\tau \lVert \mathrm{d}\hat q_i \rVert$. The second is by Cauchy and Schwarz at most
    $\tau (\sum_j P_{ij} \lVert \mathrm{d}\hat k_j \rVert^2)^{1/2}$, and the third
    $(\sum_j P_{ij} \lVert \mathrm{d}\hat v_j \rVert^2)^{1/2}$. Summed over $i$, a column of $P$ sums to at most $N$.
    $\square$ A bias changes nothing in it.

    Args:
        heads: Heads of the layer; the same for all.
        head_dim: Width of a query; does not matter.
        tau: $\tau$.
        nu: $\nu$.
        eps: $\epsilon$, positive.
        bias: $B$; see `MapMechanism`.

    Raises:
        ValueError: If a number is not positive and finite.
    """

    per_query = True

    def __init__(
        self,
        heads: int = 1,
        head_dim: int = 1,
        *,
        tau: float = 10.0,
        nu: float = 1.0,
        eps: float = 1e-6,
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> None:
        super().__init__(bias)
        for name, value in {"tau": tau, "nu": nu, "eps": eps}.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r} must be a positive number")
        self.tau, self.nu, self.eps = tau, nu, eps

    def extra_repr(self) -> str:
        """Show the three numbers."""
        return f"tau={self.tau:g}, nu={self.nu:g}, eps={self.eps:g}"

    def turned(self, x: Tensor) -> Tensor:
        r"""Return $\hat x$."""
        x = at_least_float(x)
        return x * (x.square().sum(-1, keepdim=True) + self.eps).rsqrt()

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map, without the factor of the values."""
        return masked_softmax(self.tau * self.turned(q) @ self.turned(k).mT, self.bias)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `(output, map, {})`; every derivative exists."""
        maps = self.weights(q, k)
        return (self.nu * maps @ self.turned(v)).to(v.dtype), maps.to(v.dtype), {}

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output from torch's fused kernel."""
        heads = fused_softmax(self.turned(q), self.turned(k), self.turned(v), self.bias, self.tau)
        return (self.nu * heads).to(v.dtype)

    def bound(self, layer: Attention, tokens: int) -> float:
        r"""Return a Lipschitz constant of a layer with it on `tokens` tokens, in Frobenius norm, for all inputs.

        The theorem above a head, with the norms of the three projections,
        $\nu \epsilon^{-1/2} (\tau \lVert W_Q \rVert + \sqrt N (\tau \lVert W_K \rVert + \lVert W_V \rVert))$, the heads
        by the root of their squares, times $\lVert W_O \rVert$.
        """
        of_q, of_k, of_v = (_norms(w) for w in _projections(layer))
        heads = self.tau * of_q + math.sqrt(tokens) * (self.tau * of_k + of_v)
        return float(self.nu / math.sqrt(self.eps) * heads.norm() * _norms(layer.out.weight))


class L2Attention(MapMechanism):
    r"""L2 attention with tied queries and keys, $P = \mathrm{softmax}(-\lVert q_i - q_j \rVert^2 / \sqrt d + B)$.

    In a layer (Kim, Papamakarios and Mnih 2021, section 3.2): queries are keys, so that the layer's projection of keys
    plays no part, and what is averaged is $X A_h W_V$ with $A_h = W_Q W_Q^\top / \sqrt d$, that is
    $q_j\, (W_Q^\top W_V / \sqrt d)$. Called on `(q, k, v)` alone it averages `v`. For $N$ tokens without a bias,

    $$\mathrm{Lip}(q \mapsto P q) \le L_N = \sqrt N + 2 (\sqrt N + 1)\, \varphi^{-1}(N - 1),
    \quad \varphi(c) = c\, e^{c + 1},$$

    in Frobenius norm, which is at most the $\sqrt N\, (4 \varphi^{-1}(N - 1) + 1)$ of their Theorem 3.2.

    *Proof.* With $f_i = \sum_j P_{ij} q_j$ and $D_i = \sum_j P_{ij} \lVert q_i - q_j \rVert^2$,

    $$\mathrm{d} f_i = \sum_j P_{ij}\, \mathrm{d} q_j
    - \tfrac{2}{\sqrt d} \sum_j P_{ij} (q_j - f_i) (q_i - q_j) \cdot (\mathrm{d} q_i - \mathrm{d} q_j).$$

    As $\sum_j P_{ij} \lVert q_j - f_i \rVert^2 \le D_i$, Cauchy and Schwarz bound the second sum by
    $2 D_i d^{-1/2} (\lVert \mathrm{d} q_i \rVert + \lVert \mathrm{d} q \rVert)$. And $D_i / \sqrt d$ has the form
    $\sum_j c_j e^{-c_j} / \sum_j e^{-c_j}$ with $c_i = 0$, which is largest where the others are equal, at
    $(c - 1) e^c = N - 1$, with the value $c - 1 = \varphi^{-1}(N - 1)$. Sum the squares over $i$. $\square$
    """

    def __init__(
        self, heads: int = 1, head_dim: int = 1, *, bias: Float[Tensor, "... query key"] | None = None
    ) -> None:
        super().__init__(bias)

    def from_tokens(
        self, layer: Attention, x: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return queries, the same as keys, and $X A_h W_V$ as values."""
        of_q, _, of_v = _projections(layer)
        return q, q, q @ (of_q @ of_v.mT / math.sqrt(q.shape[-1]))

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map; of the queries alone, for they are the keys too."""
        return masked_softmax(_nearness(q), self.bias)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output from torch's fused kernel: the squares of the keys are one more coordinate."""
        dtype, q = v.dtype, at_least_float(q)
        q = q - q.mean(dim=-2, keepdim=True)
        squares = q.square().sum(-1, keepdim=True)
        asked, keys = torch.cat([2 * q, torch.ones_like(squares)], -1), torch.cat([q, -squares], -1)
        v = F.pad(v.to(q.dtype), (0, 1))  # flash kernels want values as wide as queries
        return fused_softmax(asked, keys, v, self.bias, q.shape[-1] ** -0.5)[..., :-1].to(dtype)

    def bound(self, layer: Attention, tokens: int) -> float:
        r"""Return a Lipschitz constant of a layer with it on `tokens` tokens, in Frobenius norm, for all inputs.

        $L_N \lVert W_O \rVert (\sum_h \lVert W_Q \rVert^2 \lVert W_Q^\top W_V \rVert^2 / d)^{1/2}$ over the heads.

        Raises:
            ValueError: If there is a bias, which can close a token to itself; the proof needs it open.
        """
        if self.bias is not None:
            raise ValueError("L2 attention with a bias has no Lipschitz constant that we know of")
        of_q, _, of_v = _projections(layer)
        heads = _norms(of_q) * _norms(of_q @ of_v.mT) / math.sqrt(of_q.shape[-2])
        return float(self.core_bound(tokens) * heads.norm() * _norms(layer.out.weight))

    @staticmethod
    def core_bound(tokens: int) -> float:
        """Return $L_N$.

        Example:
            >>> round(L2Attention.core_bound(17), 2)
            18.68
        """
        root = math.sqrt(tokens)
        return root + 2 * (root + 1) * float(lambertw((tokens - 1) / math.e).real)


def _nearness(q: Tensor) -> Float[Tensor, "batch head query query"]:
    r"""Return $-\lVert q_i - q_j \rVert^2 / \sqrt d$, from centred queries, whose squares lose least."""
    q = q - q.mean(dim=-2, keepdim=True)
    squares = q.square().sum(-1)
    apart = (2 * q @ q.mT - squares[..., :, None] - squares[..., None, :]).clamp(max=0)
    return apart / math.sqrt(q.shape[-1])


def _projections(layer: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of queries, keys and values, each `[head, head_dim, dim]`."""
    of_q, of_k, of_v = layer.qkv.weight.unflatten(0, (3, layer.heads, -1)).unbind(0)
    return of_q, of_k, of_v


def _norms(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.matrix_norm(weight.detach(), 2))
