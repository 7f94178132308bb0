"""Attention by kernels: weights that a query gives each key on its own, without softmax's competition.

Softmax puts a row of weights on the simplex, so that a weight changes with every other key's score. A kernel that
is not divided by its row's sum has no such constraint: weight $(i, j)$ is a function of query $i$ and key $j$, and
its row may sum to anything. All mechanisms have the interface of `faultlines.models.attention.Mechanism`, and what
the recorder gets as the map is what multiplied the values, `[batch, head, query, key]`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.models.attention import MapMechanism, at_least_float, masked_softmax


class KernelMechanism(MapMechanism):
    r"""Base of the kernels: $P V$ with $P_{ij} = k(q_i, k_j)\, e^{B_{ij}} / N$, or with $k$ over its row's sum.

    Args:
        scale: The kernel's one number, in the words of the subclass; positive and finite.
        normalise: Divide by the row's sum instead of the number $N$ of keys.
        bias: $B$; see `MapMechanism`.

    Raises:
        ValueError: If `scale` is not positive and finite.
    """

    name = "scale"
    per_query = True

    def __init__(
        self, scale: float, *, normalise: bool = False, bias: Float[Tensor, "... query key"] | None = None
    ) -> None:
        super().__init__(bias)
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"{self.name}={scale!r} must be a positive number")
        self.scale, self.normalise = float(scale), normalise

    def extra_repr(self) -> str:
        """Name the kernel's numbers when the module is printed."""
        return f"{self.name}={self.scale:.4g}, normalise={self.normalise}"


class RBFAttention(KernelMechanism):
    r"""The Gaussian kernel, $P_{ij} = e^{-\lVert q_i - k_j \rVert^2 / 2 \sigma^2} / N$.

    Each weight lies in $[0, 1/N]$, and as a function of the distance $r = \lVert q_i - k_j \rVert$
    its slope is at most $e^{-1/2} / (\sigma N)$, whatever the other keys are. With `normalise=True` the row is
    divided by its sum: that is $\mathrm{softmax}(q_i \cdot k_j / \sigma^2 - \lVert k_j \rVert^2 / 2 \sigma^2)$,
    softmax attention with a bias for short keys, and with softmax's constraints.

    Args:
        heads: Heads of the layer; the kernel is the same for all.
        head_dim: Width of a query.
        layer: Index of the layer; does not matter.
        sigma: Width $\sigma$; by default $d^{1/4}$, which gives the inner product softmax's factor $1 / \sqrt d$.
        normalise: Divide by the row's sum instead of $N$.
        bias: What is added to the exponent.

    Raises:
        ValueError: If `sigma` is not positive and finite.

    Example:
        >>> from faultlines.models import Attention, record
        >>> layer = Attention(16, 4, mechanism=RBFAttention(4, 4))
        >>> with record() as tape:
        ...     y = layer(torch.rand(2, 5, 16))
        >>> tape.maps[0].shape, bool((tape.maps[0] <= 1 / 5).all())
        (torch.Size([2, 4, 5, 5]), True)
    """

    name = "sigma"

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        sigma: float | None = None,
        normalise: bool = False,
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> None:
        super().__init__(head_dim**0.25 if sigma is None else sigma, normalise=normalise, bias=bias)

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        # the three terms of the square, for the differences themselves would be [batch, head, query, key, head_dim]
        squares = q.square().sum(-1)[..., :, None] + k.square().sum(-1)[..., None, :]
        exponent = ((q @ k.mT - squares / 2) / self.scale**2).clamp(max=0)  # no square is below 0
        if self.normalise:
            return masked_softmax(exponent, self.bias)
        return (exponent if self.bias is None else exponent + self.bias).exp() / k.shape[-2]


class LinearAttention(KernelMechanism):
    r"""The linear feature map, $P_{ij} = \phi(q_i) \cdot \phi(k_j) / (\tau N)$ with $\phi = \mathrm{elu} + 1$.

    Features of Katharopoulos et al. (2020), who divide by the row's sum; so does `normalise=True`, where $\tau$
    drops out, and a row whose weights are all too small for the type is zero. Without a bias and a map, the output
    is $\phi(Q) (\phi(K)^\top V)$, linear in the number of tokens.

    Args:
        heads: Heads of the layer; the kernel is the same for all.
        head_dim: Width of a query.
        layer: Index of the layer; does not matter.
        temperature: $\tau$; by default `head_dim`, which makes the weights $1/N$ where queries and keys are 0.
        normalise: Divide by the row's sum instead of $\tau N$.
        bias: Logarithm of a factor on the weights.

    Raises:
        ValueError: If `temperature` is not positive and finite.
    """

    name = "temperature"

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        temperature: float | None = None,
        normalise: bool = False,
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> None:
        super().__init__(head_dim if temperature is None else temperature, normalise=normalise, bias=bias)

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        weights = self._features(q, -1) @ self._features(k, (-2, -1)).mT
        weights = weights if self.bias is None else weights * self.bias.exp()
        return self._divided(weights, weights.sum(-1, keepdim=True) if self.normalise else None, k)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same output; without a bias the features of the keys meet the values first, and no map is made."""
        if self.bias is not None:
            return super().fused(q, k, v)
        q, k = self._features(at_least_float(q), -1), self._features(at_least_float(k), (-2, -1))
        total = q @ k.sum(-2)[..., None] if self.normalise else None
        return self._divided(q @ (k.mT @ at_least_float(v)), total, k).to(v.dtype)

    def _features(self, x: Tensor, common: int | tuple[int, ...]) -> Tensor:
        """Return elu + 1, without its cancellation below 0; a factor common to some axes drops out of the row's share.

        So it is taken out there, where all features would be too small for the type.
        """
        low = x.clamp(max=0)
        if self.normalise:
            low = low - x.detach().amax(dim=common, keepdim=True).clamp(max=0)
        return x.relu() + low.exp()

    def _divided(self, values: Tensor, total: Tensor | None, k: Tensor) -> Tensor:
        """Divide by the row's sum, but leave zeros where that is 0; without one by the constant."""
        return values / (self.scale * k.shape[-2] if total is None else total.where(total > 0, 1))


class SigmoidAttention(KernelMechanism):
    r"""Sigmoid attention, $P_{ij} = \mathrm{sigmoid}(q_i \cdot k_j / (\tau \sqrt d) - \log N + B_{ij})$.

    The shift by $\log N$ makes a weight about $1/N$ where scores are 0 (Ramapuram et al. 2024). Rows are not
    normalised.

    Args:
        heads: Heads of the layer; the kernel is the same for all.
        head_dim: Width of a query.
        layer: Index of the layer; does not matter.
        temperature: $\tau$.
        bias: What is added to the scores.

    Raises:
        ValueError: If `temperature` is not positive and finite.
    """

    name = "temperature"

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        temperature: float = 1.0,
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> None:
        super().__init__(temperature, bias=bias)

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        scores = q @ k.mT / (self.scale * math.sqrt(q.shape[-1])) - math.log(k.shape[-2])
        return torch.sigmoid(scores if self.bias is None else scores + self.bias)
