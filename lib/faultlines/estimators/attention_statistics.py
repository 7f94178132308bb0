"""What an attention map looks like: how steep, spread and peaked its rows are, and what softmax forces on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.softmax import softmax_jacobian_bound, softmax_jacobian_trace
from faultlines.estimators.spectral import spectral_norm
from faultlines.models.pixel_normalization import check_tensor


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


@dataclass(frozen=True)
class RowShares:
    r"""Rows of a non-negative map split into how much they weigh and how that is shared out, `[batch, head, query]`.

    Attributes:
        mass: The row's sum; 1 for softmax.
        entropy: Entropy in nats of the row over its mass, in $[0, \log N]$.
        relative: The same over $\log N$, in $[0, 1]$; 1 where there is one key.
    """

    mass: Float[Tensor, "batch head query"]
    entropy: Float[Tensor, "batch head query"]
    relative: Float[Tensor, "batch head query"]


def row_shares(maps: Float[Tensor, "batch head query key"]) -> RowShares:
    r"""Return mass and entropy of each row of non-negative maps, normalised or not.

    A kernel's row is no distribution, and $-\sum p \log p$ of it would mix its mass with its spread; entropy is
    that of the row divided by its sum. A row without mass prefers no key: its entropy is that of the uniform row.
    A kernel may lower every weight of a row at equal entropy, which softmax cannot.

    Args:
        maps: Attention maps from the recorder, or any `[..., key]`.

    Raises:
        ValueError: If an entry is negative or not finite (the combined map of differential attention is signed: pass
            its branches).

    Example:
        >>> found = row_shares(torch.tensor([[0.2, 0.2], [0.0, 0.5], [0.0, 0.0]]))
        >>> found.mass, found.relative
        (tensor([0.4000, 0.5000, 0.0000]), tensor([1., 0., 1.]))
    """
    check_tensor(maps, "maps")
    if maps.ndim < 1 or maps.shape[-1] < 1 or not maps.is_floating_point():
        raise ValueError(
            f"maps has shape {tuple(maps.shape)} and dtype {maps.dtype}; floating [..., key] is needed"
        )
    if maps.numel() and not bool((maps.isfinite() & (maps >= 0)).all()):
        raise ValueError(
            f"maps has entries from {float(maps.min())} to {float(maps.max())}; weights must be at least 0 and finite"
        )
    n = maps.shape[-1]
    largest = maps.amax(dim=-1, keepdim=True)
    scaled = maps / torch.where(largest > 0, largest, 1)  # a sum of tiny weights keeps its digits
    total = scaled.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, scaled / torch.where(total > 0, total, 1), 1 / n)
    entropy = row_entropy(shares)
    return RowShares(maps.sum(dim=-1), entropy, entropy / math.log(n) if n > 1 else torch.ones_like(entropy))


@dataclass(frozen=True)
class SoftmaxFacts:
    r"""What the simplex forces on $a = \mathrm{softmax}(s)$ over $N$ keys, each `[batch]`; see `softmax_facts`.

    Attributes:
        trace: $\operatorname{tr} J(a)$, the total response of the weights to their own scores.
        trace_from_entropy: $1 - e^{-H_2(a)}$.
        deficit: $\log N - H(a)$.
        deficit_bound: $R^2 / 8$.
        score_range: $R = \max s - \min s$.
    """

    trace: Float[Tensor, "*batch"]
    trace_from_entropy: Float[Tensor, "*batch"]
    deficit: Float[Tensor, "*batch"]
    deficit_bound: Float[Tensor, "*batch"]
    score_range: Float[Tensor, "*batch"]


def collision_entropy(p: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""Return the Rényi entropy of order 2, $H_2 = -\log \sum_i p_i^2$, at most the Shannon entropy.

    Example:
        >>> collision_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).abs()
        tensor([0.6931, 0.0000])
    """
    return -p.square().sum(dim=-1).log()


def softmax_facts(scores: Float[Tensor, "*batch n"]) -> SoftmaxFacts:
    r"""Return both sides of an equality and of an inequality between scores and the entropy of their softmax.

    With $J = \mathrm{diag}(a) - a a^\top$, $\operatorname{tr} J = 1 - \lVert a \rVert^2 = 1 - e^{-H_2(a)}$: spread
    rows answer most to their scores. And $\log N - H(a) \le R^2 / 8$: with $\psi(t) = \log \frac1N \sum_i e^{t s_i}$
    the deficit is $\psi'(1) - \psi(1) = \int_0^1 t\, \psi''(t)\, dt$, and $\psi''$ is a variance of numbers in an
    interval of length $R$, at most $R^2 / 4$. A row that names few keys therefore needs a wide range of scores, and a
    narrow range means near-uniform rows.

    Args:
        scores: Scores along the last dimension, finite.

    Raises:
        ValueError: If a score is not finite.

    Example:
        >>> found = softmax_facts(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
        >>> round(found.trace.item(), 4), round(found.trace_from_entropy.item(), 4)
        (0.4895, 0.4895)
        >>> round(found.deficit.item(), 4), found.deficit_bound.item()
        (0.2662, 0.5)
    """
    check_tensor(scores, "scores")
    if not scores.is_floating_point() or scores.ndim < 1 or scores.shape[-1] < 1:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)} and dtype {scores.dtype}; floating [..., key] is needed"
        )
    if not bool(scores.isfinite().all()):
        raise ValueError("scores has an entry that is not finite")
    a = scores.softmax(dim=-1)
    span = scores.amax(dim=-1) - scores.amin(dim=-1)
    return SoftmaxFacts(
        trace=softmax_jacobian_trace(a),
        trace_from_entropy=-torch.expm1(-collision_entropy(a)),
        deficit=math.log(scores.shape[-1]) - row_entropy(a),
        deficit_bound=span.square() / 8,
        score_range=span,
    )
