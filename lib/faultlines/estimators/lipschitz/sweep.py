"""One head at fixed weights and input, its map pulled to patterns: what the distribution alone does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from faultlines.estimators.attention_statistics import map_statistics
from faultlines.estimators.lipschitz.attention import attention_bound
from faultlines.estimators.lipschitz.jacobian import jacobian_norm
from faultlines.models.attention import SoftmaxMechanism
from faultlines.models.random_attention import PATTERNS, random_layer, random_tokens, score_pattern
from faultlines.models.recorder import record


@dataclass(frozen=True)
class MapPoint:
    r"""One map of a sweep.

    Attributes:
        pattern: What the map is pulled to; `"none"` at strength 0.
        strength: Bias on the scores of the pattern's keys.
        norm: True local norm of the head, to 1e-4.
        max_g1: Largest $g_1$ of a row.
        map_norm: $\lVert P \rVert_2$.
        theorem3: The bound of arXiv 2507.07814.
        centred: The centred bound.
    """

    pattern: str
    strength: float
    norm: float
    max_g1: float
    map_norm: float
    theorem3: float
    centred: float


def pattern_sweep(
    *,
    tokens: int,
    dim: int,
    qk_std: float,
    strengths: Sequence[float],
    generator: torch.Generator,
    patterns: Sequence[str] = PATTERNS,
) -> list[MapPoint]:
    """Draw one head and one input, then impose each pattern at each strength on its map.

    Args:
        tokens: Number of tokens.
        dim: Width of a token and of the head.
        qk_std: Scale of query and key weights; see `random_layer`.
        strengths: Biases on the scores, positive.
        generator: Source of weights, input and permutations.
        patterns: See `score_pattern`.

    Returns:
        The unbiased map first, then pattern by pattern in the order of the strengths.

    Raises:
        ValueError: If a pattern is unknown or there are fewer than three tokens.
    """
    layer = random_layer(dim, 1, qk_std=qk_std, generator=generator)
    x = random_tokens(1, tokens, dim, generator=generator)
    seed = int(torch.randint(2**31, (), generator=generator))  # one permutation for all strengths
    cases = [("none", 0.0), *((pattern, strength) for pattern in patterns for strength in strengths)]
    bias = torch.zeros(len(cases), 1, tokens, tokens, dtype=x.dtype)
    for case, (pattern, strength) in zip(bias, cases, strict=True):
        if pattern != "none":
            permutations = torch.Generator().manual_seed(seed)
            case[0] = score_pattern(pattern, tokens, strength, generator=permutations)
    layer.mechanism = SoftmaxMechanism(bias=bias)  # a map a sample: the whole sweep is one batch
    x = x.expand(len(cases), -1, -1)
    with record() as tape:
        layer(x)
    statistics = map_statistics(tape.maps[0])
    columns = (
        jacobian_norm(layer, x, steps=96, tol=1e-4),
        statistics.max_steepness[:, 0],
        statistics.norm[:, 0],
        attention_bound(layer, x),
        attention_bound(layer, x, variant="centred"),
    )
    return [
        MapPoint(pattern, strength, *(column[i].item() for column in columns))
        for i, (pattern, strength) in enumerate(cases)
    ]
