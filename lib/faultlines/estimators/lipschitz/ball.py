"""Bounds of the attention Jacobian on a whole ball around the input, hence Lipschitz constants there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.lipschitz.attention import Compose, compose_heads
from faultlines.estimators.lipschitz.heads import Heads
from faultlines.estimators.softmax import move_odds, softmax_jacobian_bound_ball
from faultlines.estimators.spectral import spectral_norm
from faultlines.models.attention import Attention


def attention_bound_ball(
    layer: Attention,
    x: Float[Tensor, "batch token dim"],
    radius: float,
    *,
    compose: Compose = "min",
    per_head: bool = False,
) -> Float[Tensor, " batch"] | Float[Tensor, "batch head"]:
    r"""Bound the Jacobian norm of `layer` at every $X'$ with $\lVert X' - X \rVert_F \le r$.

    The ball is convex, so the bound is a Lipschitz constant on it. It is the `centred` bound with each factor
    at its worst. Centring keys only shifts a row of scores, so moving tokens by at most $r$ moves score $(i,
    j)$, up to such shifts, by at most $\delta_i = (r \max_j \lVert W_Q k^c_j \rVert + r \lVert W_K q_i \rVert
    + r^2 \lVert W_Q W_K^\top \rVert) / \sqrt d$; then $g_1(P'_i)$ is at most its maximum over the odds box of
    `softmax_jacobian_bound_ball`, and $P'$ is entrywise, hence in norm, at most the upper corners of that
    box.

    Args:
        layer: An attention layer with the softmax mechanism; biases are allowed.
        x: Input of the layer.
        radius: Radius $r$ of the ball in the Frobenius norm of one sample, at least 0.
        compose: How heads are composed; see `attention_bound`.
        per_head: Return the bound of each head's own term instead.

    Returns:
        One bound a sample, or one a sample and head. At `radius=0` it is the `centred` bound.

    Raises:
        ValueError: If `radius` is negative, or layer and input do not fit.

    Example:
        >>> import torch
        >>> from faultlines.models import Attention
        >>> _ = torch.manual_seed(0)
        >>> layer, x = Attention(8, 2), torch.randn(1, 5, 8)
        >>> bool(attention_bound_ball(layer, x, 0.1) > attention_bound_ball(layer, x, 0.0))
        True
    """
    if not 0 <= radius < float("inf"):
        raise ValueError(f"radius={radius} must be finite and at least 0")
    return compose_heads(
        layer, lambda merge: _ball(Heads(layer, x, merge_output=merge), radius), compose, per_head
    )


def _ball(heads: Heads, r: float) -> Float[Tensor, "batch head"]:
    # softmax rounds to 0 what a move of the scores may bring back
    maps = heads.maps.clamp_min(torch.finfo(heads.maps.dtype).tiny)
    norm_qk = spectral_norm(heads.r_q @ heads.r_k.mT)
    from_query = (heads.k_centred @ heads.r_q.mT).norm(dim=-1).amax(dim=-1)[..., None]  # [batch, head, 1]
    from_keys = (heads.q @ heads.r_k.mT).norm(dim=-1)  # [batch, head, query]
    delta = (r * (from_query + from_keys) + r * r * norm_qk[:, None]) / heads.root_d
    steepness = softmax_jacobian_bound_ball(maps, delta, check=False).amax(dim=-1)

    norm_p = spectral_norm(move_odds(maps, 2 * delta[..., None]))

    drift = r * norm_qk / heads.root_d
    norm_v = heads.norm_v_centred + r * heads.norm_w_v
    sides = heads.norm_query_side + heads.norm_key_side + 2 * drift
    return norm_p * heads.norm_w_v + steepness * norm_v * sides
