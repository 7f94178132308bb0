"""Patterns imposed on an attention map at fixed weights and inputs, by a bias on its scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

PATTERNS = ("permutation", "sink", "pair", "sink pair")


def score_pattern(
    name: str, tokens: int, strength: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, "token token"]:
    """Return a bias that pulls every row of the map to a pattern as its strength grows.

    Args:
        name: `"permutation"` (each query to a key of its own), `"sink"` (every query to key 0), `"pair"` (each
            query to two keys in equal parts), `"sink pair"` (every query to keys 0 and 1).
        tokens: Number of tokens, at least 3.
        strength: What is added to the scores of the keys in the pattern; 0 leaves the map as it is.
        generator: Source of the permutations; the CPU's default where None.

    Raises:
        ValueError: If the name is unknown or there are fewer than three tokens.

    Example:
        >>> score_pattern("sink", 3, 2.0)
        tensor([[2., 0., 0.],
                [2., 0., 0.],
                [2., 0., 0.]])
    """
    if name not in PATTERNS:
        raise ValueError(f"pattern {name!r} is not one of {', '.join(PATTERNS)}")
    if tokens < 3:
        raise ValueError(f"tokens={tokens} must be at least 3")
    bias = torch.zeros(tokens, tokens)
    if name == "sink":
        bias[:, 0] = strength
    elif name == "sink pair":
        bias[:, :2] = strength
    else:
        order = torch.randperm(tokens, generator=generator)
        rows = torch.arange(tokens)
        bias[rows, order] = strength
        if name == "pair":
            bias[rows, order.roll(1)] = (
                strength  # never the same key: a roll of a permutation has no fixed point
            )
    return bias
