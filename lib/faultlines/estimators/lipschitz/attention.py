r"""Upper bounds of the Jacobian norm of a softmax attention layer at a point.

All bounds are *pointwise*: they hold for $\lVert \partial\,\mathrm{Attn} / \partial X \rVert_2$ at the given
$X$ (Frobenius norm on both sides) and certify nothing about a neighbourhood, except `castin`, which holds on
the whole ball of tokens it names. `faultlines.estimators.lipschitz.ball` has versions that hold around $X$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.forward import full_float32
from faultlines.estimators.lipschitz.heads import Heads, QueryBias
from faultlines.estimators.spectral import spectral_norm
from faultlines.models.attention import Attention

Compose = Literal["min", "sum", "concat"]


@full_float32()
def attention_bound(
    layer: Attention,
    x: Float[Tensor, "batch token dim"],
    *,
    variant: str = "theorem3",
    compose: Compose = "min",
    per_head: bool = False,
    query_bias: QueryBias = "raise",
) -> Float[Tensor, " batch"] | Float[Tensor, "batch head"]:
    r"""Bound $\lVert \partial\, \mathrm{layer}(X) / \partial X \rVert_2$ of each sample.

    With $P$ the map, $A = W_Q W_K^\top / \sqrt d$, $c = \max_i g_1(P_i)$ and $X_c$ the tokens without their
    mean, the variants bound one head by

    - `theorem3`: $\lVert W_V\rVert (\lVert P\rVert + 2 \lVert X\rVert^2 \lVert A\rVert\, c)$,
      Theorem 3 of Yudin et al., arXiv 2507.07814; `theorem3_exact`: with $c = \max_i \lVert J(P_i) \rVert$;
    - `half`, `one`: the same with $c = 1/2$ and $c = 1$, the global Lipschitz constants of softmax in use;
      `half_sqrt_n`, `one_sqrt_n`: with $\sqrt n \ge \lVert P \rVert$ in its place, too;
    - `castin`: $\sqrt 3\, \lVert W_V\rVert (\lVert A\rVert^2 R^4 (4n+1) + n)^{1/2}$ with
      $R = \max_i \lVert x_i\rVert$, Castin, Ablin and Peyré, arXiv 2312.14820, Theorem 3.3;
    - `specformer`: $n(n+1) \lVert X \rVert_F^2\, \lVert W_V\rVert (\lVert W_Q\rVert \lVert W_K\rVert + 1)$,
      Hu et al., arXiv 2402.03317, at radius 0;
    - `centred`: $\lVert P\rVert \lVert W_V\rVert
      + c\, \lVert X_c W_V\rVert (\lVert W_Q K_c^\top\rVert + \lVert Q W_K^\top\rVert)/\sqrt d$,
      from $J_i 1 = 0$;
    - `covariance`: `centred` with the term of the query tokens exact,
      $\max_i \lVert V^\top J_i K W_Q^\top \rVert / \sqrt d$ (it is block diagonal), and row $i$ of
      $Q W_K^\top$ weighted by its own $g_1(P_i)$;
    - `rowwise`: the spectral norm of the matrix of bounds of the Jacobian's blocks $\partial o_i / \partial x_j$,
      $P_{ij} (\lVert W_V\rVert + \lVert v_j - \bar v_i\rVert \lVert W_K q_i\rVert / \sqrt d)$, with
      $\bar v_i = \sum_j P_{ij} v_j$, and on the diagonal also $\lVert V^\top J_i K W_Q^\top \rVert / \sqrt d$. It
      uses what the analysis of Havens et al. (ICML 2024) uses, weights and the unperturbed input; their own formula
      could not be read, and this one is derived here.

    Theorem 3 is known to us second-hand; it was proved again. The formula of `castin` is recalled: it was
    derived again here (three terms, Cauchy-Schwarz, $\lVert P \rVert^2 \le n$), so it is a bound whatever the
    paper's exact wording. The formula of `specformer` is recalled too, and is a bound only where
    $n(n+1)\lVert X\rVert_F^2 \ge \sqrt n$; it is not for tokens close to zero, since it has no term of order
    zero in $X$.

    Heads are composed as `sum`, $\sum_h L_h$ with $W_V^h W_O^h$ in the place of $W_V$, or as `concat`,
    $\lVert W_O \rVert (\sum_h L_h^2)^{1/2}$; `min` takes the smaller.

    Biases: those of keys, values and output drop out of the Jacobian. A query bias is part of `centred`,
    `covariance` and `rowwise`; the others assume it absent, and either raise, or *lift* it: tokens get a constant
    coordinate 1 that $W_Q$ multiplies by the bias, which is the theorem for lifted tokens restricted to
    perturbations of the real ones.

    Args:
        layer: An attention layer with the softmax mechanism.
        x: Input of the layer, after its normalisation (`LayerRecord.inputs`).
        variant: One of `VARIANTS`.
        compose: How heads are composed.
        per_head: Return the bound of each head's own term $\mathrm{Attn}_h(X) W_O^h$ instead.
        query_bias: What variants that know no query bias do about one.

    Returns:
        One bound a sample, or one a sample and head.

    Raises:
        ValueError: If a name is unknown, the shapes do not fit, or the layer breaks an assumption of the
            variant.

    Example:
        >>> import torch
        >>> from faultlines.models import Attention
        >>> _ = torch.manual_seed(0)
        >>> layer, x = Attention(8, 2, qkv_bias=False).double(), torch.randn(3, 5, 8, dtype=torch.float64)
        >>> bool((attention_bound(layer, x, variant="centred") < attention_bound(layer, x)).all())
        True
    """
    if variant not in _BOUNDS:
        raise ValueError(f"variant={variant!r} is not one of {sorted(_BOUNDS)}")
    bound = _BOUNDS[variant]
    return compose_heads(
        layer, lambda merge: bound(Heads(layer, x, merge_output=merge), query_bias), compose, per_head
    )


def compose_heads(
    layer: Attention,
    head_bound: Callable[[bool], Float[Tensor, "batch head"]],
    compose: str,
    per_head: bool,
) -> Tensor:
    """Turn bounds of heads, with or without the output projection merged in, into one of the layer.

    Raises:
        ValueError: If `compose` is unknown.
    """
    if compose not in ("min", "sum", "concat"):
        raise ValueError(f"compose={compose!r} is not one of 'min', 'sum', 'concat'")
    if per_head:
        return head_bound(True)
    results = []
    if compose in ("min", "sum"):
        results.append(head_bound(True).sum(dim=-1))
    if compose in ("min", "concat"):
        results.append(spectral_norm(layer.out.weight) * head_bound(False).square().sum(dim=-1).sqrt())
    return torch.stack(results).amin(dim=0)


def _product(
    heads: Heads, query_bias: QueryBias, norm_p: Tensor | float, steepness: Tensor | float
) -> Tensor:
    x, _, norm_a = heads.raw(query_bias)
    norm_x = spectral_norm(x)[:, None]  # one for all heads
    return heads.norm_w_v * (norm_p + 2 * norm_x.square() * norm_a * steepness)


def _theorem3(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, heads.norm_p, heads.row_g1.amax(dim=-1))


def _theorem3_exact(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, heads.norm_p, heads.row_norm.amax(dim=-1))


def _half(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, heads.norm_p, 0.5)


def _one(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, heads.norm_p, 1.0)


def _half_sqrt_n(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, math.sqrt(heads.tokens), 0.5)


def _one_sqrt_n(heads: Heads, query_bias: QueryBias) -> Tensor:
    return _product(heads, query_bias, math.sqrt(heads.tokens), 1.0)


def _castin(heads: Heads, query_bias: QueryBias) -> Tensor:
    x, _, norm_a = heads.raw(query_bias)
    n = heads.tokens
    largest = x.norm(dim=-1).amax(dim=-1)[:, None]
    return math.sqrt(3) * heads.norm_w_v * (norm_a.square() * largest**4 * (4 * n + 1) + n).sqrt()


def _specformer(heads: Heads, query_bias: QueryBias) -> Tensor:
    x, w_q, _ = heads.raw(query_bias)
    n = heads.tokens
    frobenius = x.flatten(1).square().sum(dim=-1)[:, None]
    return n * (n + 1) * frobenius * heads.norm_w_v * (spectral_norm(w_q) * spectral_norm(heads.w_k) + 1)


def _centred(heads: Heads, query_bias: QueryBias) -> Tensor:
    steepness = heads.row_g1.amax(dim=-1) * (heads.norm_query_side + heads.norm_key_side)
    return heads.norm_p * heads.norm_w_v + heads.norm_v_centred * steepness


def _own_term(heads: Heads) -> Float[Tensor, "batch head query"]:
    # ||V^T J_i K W_Q^T|| / sqrt d: what query i does through its own scores
    own = []
    for p, v, k in zip(
        heads.maps, heads.v_centred, heads.k_centred, strict=True
    ):  # [head, ...]: bounds memory
        outer = v[..., :, None] * k[..., None, :]  # [head, key, value_dim, head_dim]
        moments = (p @ outer.flatten(-2)).unflatten(-1, outer.shape[-2:])
        covariance = moments - (p @ v)[..., :, None] * (p @ k)[..., None, :]  # V^T J_i K
        own.append(spectral_norm(covariance @ heads.r_q[:, None].mT) / heads.root_d)
    return torch.stack(own)


def _covariance(heads: Heads, query_bias: QueryBias) -> Tensor:
    own = _own_term(heads).amax(dim=-1)
    others = spectral_norm(heads.row_g1[..., None] * heads.q @ heads.r_k.mT) / heads.root_d
    return heads.norm_p * heads.norm_w_v + own + heads.norm_v_centred * others


def _rowwise(heads: Heads, query_bias: QueryBias) -> Tensor:
    reach = (heads.q @ heads.r_k.mT).norm(dim=-1, keepdim=True) / heads.root_d  # ||W_K q_i|| / sqrt d
    read = heads.maps @ heads.v_centred  # the mean value that query i reads
    # ||v_j - mean_i||, not by way of [n, n, d] differences, nor by a product, which cancels
    away = torch.cdist(read, heads.v_centred, compute_mode="donot_use_mm_for_euclid_dist")
    blocks = heads.maps * (heads.norm_w_v[..., None, None] + reach * away) + _own_term(heads).diag_embed()
    return spectral_norm(blocks)


_BOUNDS: dict[str, Callable[[Heads, QueryBias], Tensor]] = {
    "theorem3": _theorem3,
    "theorem3_exact": _theorem3_exact,
    "half": _half,
    "half_sqrt_n": _half_sqrt_n,
    "one": _one,
    "one_sqrt_n": _one_sqrt_n,
    "castin": _castin,
    "specformer": _specformer,
    "centred": _centred,
    "covariance": _covariance,
    "rowwise": _rowwise,
}


VARIANTS: tuple[str, ...] = tuple(_BOUNDS)
