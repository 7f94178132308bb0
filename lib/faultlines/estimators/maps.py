"""What an attention map looks like: how steep, how spread, how peaked its rows are, and its own norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.softmax import softmax_jacobian_bound
from faultlines.estimators.spectral import spectral_norm


@dataclass(frozen=True)
class MapStatistics:
    r"""Statistics of attention maps `[batch, head, query, key]`.

    Attributes:
        steepness: $g_1$ of each row, `[batch, head, query]`; its maximum over rows enters the attention
            bound.
        entropy: Entropy of each row in nats, `[batch, head, query]`; $\log n$ for a uniform row.
        peak: The largest entry of each row, `[batch, head, query]`.
        norm: Spectral norm of each map, `[batch, head]`: 1 for a doubly stochastic map, $\sqrt{n}$ for a
            sink.
    """

    steepness: Float[Tensor, "batch head query"]
    entropy: Float[Tensor, "batch head query"]
    peak: Float[Tensor, "batch head query"]
    norm: Float[Tensor, "batch head"]

    @property
    def max_steepness(self) -> Float[Tensor, "batch head"]:
        """Largest $g_1$ over the rows of each map."""
        return self.steepness.amax(dim=-1)


def map_statistics(maps: Float[Tensor, "batch head query key"]) -> MapStatistics:
    """Return the statistics of each map.

    The steepness is blind to an attention sink (every row one-hot at the same key), which the norm shows.

    Args:
        maps: Row-stochastic attention maps.

    Returns:
        Per-row and per-map statistics.

    Raises:
        ValueError: If `maps` has fewer than two dimensions, or its rows are not distributions.

    Example:
        >>> import torch
        >>> sink = torch.zeros(1, 1, 4, 4)
        >>> sink[..., 0] = 1
        >>> statistics = map_statistics(sink)
        >>> statistics.max_steepness.item(), statistics.norm.item()
        (0.0, 2.0)
    """
    if maps.ndim < 2:
        raise ValueError(f"maps has shape {tuple(maps.shape)}; [..., query, key] is needed")
    return MapStatistics(
        steepness=softmax_jacobian_bound(maps),
        entropy=row_entropy(maps),
        peak=maps.amax(dim=-1),
        norm=spectral_norm(maps),
    )


def row_entropy(p: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return $-\sum_i p_i \log p_i$ in nats, with $0 \log 0 = 0$ and a finite gradient there.

    Example:
        >>> import torch
        >>> row_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    return (p * -p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim=-1)
