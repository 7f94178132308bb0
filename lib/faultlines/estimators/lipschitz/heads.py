"""The factors that attention bounds are made of, computed once for all heads of a layer at an input."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.softmax import softmax_jacobian_bound, softmax_jacobian_norm
from faultlines.estimators.spectral import spectral_norm
from faultlines.models.attention import Attention, SoftmaxMechanism

QueryBias = Literal["raise", "lift"]


class Heads:
    r"""Factors of $\mathrm{softmax}(Q K^\top / \sqrt d)\, V$ per sample and head, in the paper's letters.

    Row $i$ of the softmax Jacobian satisfies $J_i 1 = 0$. Hence a key bias and a value bias drop out of the
    Jacobian of attention, and keys and values may be centred over tokens. The query bias stays.

    Args:
        layer: A softmax attention layer.
        x: Its input, `[batch, token, dim]`.
        merge_output: Whether each head's values are followed by its rows of the output projection.

    Raises:
        ValueError: If the layer does not use softmax attention, or `x` does not fit it.
    """

    def __init__(self, layer: Attention, x: Float[Tensor, "batch token dim"], *, merge_output: bool) -> None:
        if not isinstance(layer, Attention) or not isinstance(layer.mechanism, SoftmaxMechanism):
            name = type(getattr(layer, "mechanism", layer)).__name__
            raise ValueError(f"layer uses {name}; the bounds hold for Attention with SoftmaxMechanism only")
        dim = layer.qkv.in_features
        if x.ndim != 3 or x.shape[-1] != dim or x.shape[1] < 1:
            raise ValueError(f"x has shape {tuple(x.shape)}; [batch, token >= 1, {dim}] is needed")
        if x.dtype != layer.qkv.weight.dtype or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"x has dtype {x.dtype}; that of the layer, {layer.qkv.weight.dtype}, as float32 or float64 is needed"
            )
        self.x = x
        self.q, self.k, self.v = layer.project(x)
        _, self.maps, _ = layer.mechanism.explicit(self.q, self.k, self.v)
        # weights are stored as [out, in]; W_Q, W_K, W_V of the paper are [dim, head_dim] a head
        self.w_q, self.w_k, w_v = layer.qkv.weight.unflatten(0, (3, layer.heads, -1)).mT
        w_o = layer.out.weight.unflatten(1, (layer.heads, -1)).permute(1, 2, 0)  # [head, head_dim, dim]
        self.root_d = math.sqrt(self.q.shape[-1])
        bias = layer.qkv.bias
        self.query_bias = None if bias is None else bias.unflatten(0, (3, layer.heads, -1))[0]
        self.r_v = _triangle(w_v)
        if merge_output:
            # W_O^h = R^T Q^T and Q^T has orthonormal rows: R^T gives the same norms in head_dim columns
            r_o = _triangle(w_o.mT)
            self.r_v = self.r_v @ r_o.mT
            self.v = self.v @ r_o.mT

    @property
    def tokens(self) -> int:
        """Number of tokens, n."""
        return self.x.shape[1]

    @cached_property
    def norm_p(self) -> Float[Tensor, "batch head"]:
        r"""$\lVert P \rVert_2$."""
        return spectral_norm(self.maps)

    @cached_property
    def norm_w_v(self) -> Float[Tensor, " head"]:
        r"""$\lVert W_V \rVert_2$, or $\lVert W_V W_O^h \rVert_2$ where the output is merged."""
        return spectral_norm(self.r_v)

    @cached_property
    def row_g1(self) -> Float[Tensor, "batch head query"]:
        """$g_1$ of each row of the map."""
        return softmax_jacobian_bound(self.maps, check=False)

    @cached_property
    def row_norm(self) -> Float[Tensor, "batch head query"]:
        r"""$\lVert J_i \rVert_2$ of each row of the map, exactly."""
        return softmax_jacobian_norm(self.maps, check=False)

    @cached_property
    def v_centred(self) -> Float[Tensor, "batch head key value_dim"]:
        """Values without their mean over tokens."""
        return self.v - self.v.mean(dim=-2, keepdim=True)

    @cached_property
    def k_centred(self) -> Float[Tensor, "batch head key head_dim"]:
        """Keys without their mean over tokens."""
        return self.k - self.k.mean(dim=-2, keepdim=True)

    @cached_property
    def r_q(self) -> Float[Tensor, "head head_dim head_dim"]:
        """R of $W_Q = Q R$, which may replace $W_Q$ on the outside of a norm."""
        return _triangle(self.w_q)

    @cached_property
    def r_k(self) -> Float[Tensor, "head head_dim head_dim"]:
        """R of $W_K = Q R$."""
        return _triangle(self.w_k)

    @cached_property
    def norm_v_centred(self) -> Float[Tensor, "batch head"]:
        r"""$\lVert X_c W_V \rVert_2$."""
        return spectral_norm(self.v_centred)

    @cached_property
    def norm_query_side(self) -> Float[Tensor, "batch head"]:
        r"""$\lVert W_Q K_c^\top \rVert_2 / \sqrt d$: how far scores follow their own query token."""
        return spectral_norm(self.k_centred @ self.r_q.mT) / self.root_d

    @cached_property
    def norm_key_side(self) -> Float[Tensor, "batch head"]:
        r"""$\lVert Q W_K^\top \rVert_2 / \sqrt d$: how far scores follow the key tokens."""
        return spectral_norm(self.q @ self.r_k.mT) / self.root_d

    @cached_property
    def lifted(self) -> tuple[Tensor, Tensor]:
        r"""Tokens and $W_Q$ with the query bias as the weight of one more, constant coordinate."""
        if self.query_bias is None:
            return self.x, self.w_q
        ones = self.x.new_ones(*self.x.shape[:-1], 1)
        return torch.cat([self.x, ones], dim=-1), torch.cat([self.w_q, self.query_bias[:, None]], dim=1)

    def raw(self, query_bias: QueryBias) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return $X$, $W_Q$, $\lVert A \rVert_2$ for bounds that know scores only as $X A X^\top$.

        Raises:
            ValueError: If the layer has a query bias and lifting it was not asked for.
        """
        if query_bias not in ("raise", "lift"):
            raise ValueError(f"query_bias={query_bias!r} is not one of 'raise', 'lift'")
        biased = self.query_bias is not None and bool((self.query_bias != 0).any())
        if biased and query_bias == "raise":
            raise ValueError(
                "layer has a query bias, which this variant assumes to be absent: take variant='centred' or "
                "'covariance', or query_bias='lift'"
            )
        x, w_q = self.lifted if biased else (self.x, self.w_q)
        return x, w_q, spectral_norm(_triangle(w_q) @ self.r_k.mT) / self.root_d


def _triangle(w: Float[Tensor, "*batch rows columns"]) -> Tensor:
    """Return R of the QR decomposition: the same norms from the left, in `min(rows, columns)` rows."""
    return torch.linalg.qr(w, mode="r").R
