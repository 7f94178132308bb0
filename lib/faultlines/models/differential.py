"""Differential attention (Ye et al., arXiv 2410.05258): the difference of two softmax maps multiplies the values."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.attention import MapMechanism, at_least_float, fused_softmax, masked_softmax

LAMBDA_STD = 0.1  # initial standard deviation of the four vectors, as in both public implementations


def lambda_init_schedule(layer: int) -> float:
    r"""Return $0.8 - 0.6\, e^{-0.3\, l}$ for 0-based layer $l$ (arXiv 2410.05258, which counts from 1).

    Raises:
        ValueError: If `layer` is negative.

    Example:
        >>> [round(lambda_init_schedule(layer), 3) for layer in (0, 1, 11)]
        [0.2, 0.356, 0.778]
    """
    if layer < 0:
        raise ValueError(f"layer={layer} must be at least 0")
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


class HeadNorm(nn.Module):
    """Root-mean-square normalisation over a head's values, with one gain a coordinate, shared by the heads."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... dim"], scale: float = 1.0) -> Float[Tensor, "... dim"]:
        """Normalise and multiply by `scale`, in plain operations that every transform of torch knows."""
        gain = self.weight * scale  # a few numbers, where the values would be one more pass each way
        return x * (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt() * gain


class DifferentialAttention(MapMechanism):
    r"""$s\, \mathrm{RMSNorm}\big((A_1 - \lambda A_2) V\big)$ with $A_i = \mathrm{softmax}(Q_i K_i^\top / \sqrt d + B)$.

    Heads $2h$ and $2h + 1$ of the layer are the branches of pair $h$; their values are joined, so a pair has half as
    many maps as softmax attention has and values twice as wide, at the same number of weights. The scale $s$ is
    $1 - \lambda_\mathrm{init}$, and
    $\lambda = e^{\lambda_{q1} \cdot \lambda_{k1}} - e^{\lambda_{q2} \cdot \lambda_{k2}} + \lambda_\mathrm{init}$
    with four vectors of `head_dim`, shared by all pairs (arXiv 2410.05258, section 2.1; the public code of it and
    of DiffCLIP, arXiv 2503.06626, agree on this).

    The recorder gets as `maps` the combined map $A_1 - \lambda A_2$, `[batch, pair, query, key]`: its rows sum to
    $1 - \lambda$ and its entries **may be negative**, so it is no distribution. Its `terms` are `branch1` and `branch2`
    ($A_1$, $A_2$, row-stochastic) and `lambda` (a scalar).

    Every part is a switch, for ablations:

    - `norm=False` leaves the normalisation out, `output_scale=1.0` the scale;
    - `learn_lambda=False` holds $\lambda$ at `lambda_init`; with `lambda_init=0.0` only the first branch is left,
      which is softmax attention with half as many maps and values twice as wide;
    - `subtract=False` keeps both maps of a pair as heads of their own. What is left is softmax attention with
      `norm` and `output_scale`; without these two it is `SoftmaxMechanism`.

    Args:
        heads: Heads of the layer, twice the number of pairs; even.
        head_dim: Width of a query.
        layer: 0-based index of the layer; matters for the schedule only.
        lambda_init: A number, or `"depth"` for `lambda_init_schedule(layer)`.
        learn_lambda: Whether the four vectors exist.
        norm: Whether the output of a pair is normalised.
        output_scale: Factor after the normalisation; $1 - \lambda_\mathrm{init}$ by default.
        subtract: Whether the second map of a pair is subtracted from the first.
        bias: What is added to the scores of both branches, `[query, key]` (a causal mask); none by default.

    Raises:
        ValueError: If `heads` is odd, a size is below 1, a number is not finite, or `lambda_init` is unknown.

    Example:
        >>> from faultlines.models import Attention, record
        >>> layer = Attention(16, 4, mechanism=DifferentialAttention(4, 4))
        >>> with record() as tape:
        ...     y = layer(torch.rand(2, 5, 16))
        >>> y.shape, tape.maps[0].shape, sorted(tape.layers[0].terms)
        (torch.Size([2, 5, 16]), torch.Size([2, 2, 5, 5]), ['branch1', 'branch2', 'lambda'])
    """

    per_query = True
    lambda_q1: nn.Parameter | None
    lambda_k1: nn.Parameter
    lambda_q2: nn.Parameter
    lambda_k2: nn.Parameter

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        lambda_init: float | Literal["depth"] = 0.8,
        learn_lambda: bool = True,
        norm: bool = True,
        output_scale: float | None = None,
        subtract: bool = True,
        bias: Float[Tensor, "query key"] | None = None,
    ) -> None:
        super().__init__(bias, persistent=False)
        if heads < 2 or heads % 2:
            raise ValueError(f"heads={heads} must be even and at least 2: two heads make a pair of branches")
        if head_dim < 1:
            raise ValueError(f"head_dim={head_dim} must be at least 1")
        if lambda_init == "depth":
            lambda_init = lambda_init_schedule(layer)
        if isinstance(lambda_init, str) or not math.isfinite(lambda_init):
            raise ValueError(f"lambda_init={lambda_init!r} must be a finite number or 'depth'")
        scale = 1 - lambda_init if output_scale is None else output_scale
        if not math.isfinite(scale):
            raise ValueError(f"output_scale={output_scale!r} must be finite")
        self.lambda_init, self.output_scale, self.subtract = float(lambda_init), float(scale), subtract
        learned = learn_lambda and subtract
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            self.register_parameter(name, nn.Parameter(torch.empty(head_dim)) if learned else None)
        self.norm = HeadNorm(2 * head_dim if subtract else head_dim) if norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the four vectors, N(0, 0.1^2), from torch's generator, and set the gains to 1."""
        if self.lambda_q1 is not None:
            for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
                nn.init.normal_(vector, std=LAMBDA_STD)
        if self.norm is not None:
            nn.init.ones_(self.norm.weight)

    def extra_repr(self) -> str:
        """Show what is no parameter."""
        return (
            f"lambda_init={self.lambda_init:g}, output_scale={self.output_scale:g}, subtract={self.subtract}"
        )

    def lambda_value(self) -> Float[Tensor, ""] | float:
        r"""Return $\lambda$: a scalar tensor with its graph, or the number it is held at."""
        if self.lambda_q1 is None:
            return self.lambda_init
        first, second = self.lambda_q1 @ self.lambda_k1, self.lambda_q2 @ self.lambda_k2
        return first.exp() - second.exp() + self.lambda_init

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch any query key"]:
        """Return the softmax maps of heads, which two and two make a pair."""
        return masked_softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1), self.bias)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `(output, combined map, terms)`; every derivative exists."""
        if not self.subtract:
            maps = self._map(q, k)
            return self._finish(maps @ v), maps, {}
        branch1, branch2 = (self._map(*branch) for branch in zip(split_pairs(q), split_pairs(k), strict=True))
        lam = torch.as_tensor(self.lambda_value(), dtype=q.dtype, device=q.device)
        maps = torch.addcmul(branch1, branch2, lam, value=-1)  # one pass over the maps, not two
        terms = {"branch1": branch1, "branch2": branch2, "lambda": lam}
        return self._finish(maps @ join_pairs(v)), maps, terms

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output from two fused calls, one a branch, which have no second derivative."""
        if not self.subtract:
            return self._finish(fused_softmax(q, k, v, self.bias))
        width, v = q.shape[-1], join_pairs(v)
        # flash kernels want queries as wide as values: zeros add nothing to a product
        first, second = (
            fused_softmax(F.pad(q_i, (0, width)), F.pad(k_i, (0, width)), v, self.bias, width**-0.5)
            for q_i, k_i in zip(split_pairs(q), split_pairs(k), strict=True)
        )
        return self._finish(first - self.lambda_value() * second)

    def _map(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch any query key"]:
        return self.weights(at_least_float(q), at_least_float(k)).to(q.dtype)

    def _finish(self, heads: Float[Tensor, "batch pair query value_dim"]) -> Tensor:
        if self.norm is not None:
            return self.norm(heads, self.output_scale)
        return heads if self.output_scale == 1 else heads * self.output_scale


def split_pairs(x: Float[Tensor, "batch head *rest"]) -> tuple[Tensor, Tensor]:
    """Return the even and the odd heads, `[batch, pair, *rest]` each: the branches.

    Example:
        >>> even, odd = split_pairs(torch.arange(4.0).reshape(1, 4))
        >>> even.tolist(), odd.tolist()
        ([[0.0, 2.0]], [[1.0, 3.0]])
    """
    first, second = x.unflatten(1, (-1, 2)).unbind(dim=2)
    return first, second


def join_pairs(v: Float[Tensor, "batch head key head_dim"]) -> Float[Tensor, "batch pair key value_dim"]:
    """Join the values of heads 2h and 2h + 1 along their width."""
    return v.unflatten(1, (-1, 2)).transpose(2, 3).flatten(-2)
