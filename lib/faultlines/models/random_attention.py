"""Random attention layers and inputs, in the regimes where bounds differ, and patterns imposed on their maps."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.attention import Attention, SoftmaxMechanism

PATTERNS = ("permutation", "sink", "pair", "sink pair")
InputKind = Literal["normalised", "shifted", "raw"]
KINDS: tuple[InputKind, ...] = ("normalised", "shifted", "raw")


def random_layer(
    dim: int,
    heads: int,
    *,
    qk_std: float,
    generator: torch.Generator,
    bias: Float[Tensor, "token token"] | None = None,
    qkv_bias: bool = False,
) -> Attention:
    r"""Return an attention layer in float64 with Gaussian weights.

    Args:
        dim: Width of a token.
        heads: Number of heads.
        qk_std: Standard deviation of query and key weights times $\sqrt{\mathtt{dim}}$: 1 gives scores of order
            one on normalised tokens, 3 peaked maps. Value and output weights have $1/\sqrt{\mathtt{dim}}$.
        generator: Source of randomness.
        bias: A bias on the scores, the same for every head; see `score_pattern`.
        qkv_bias: Whether the input projections have a (Gaussian) bias, which Theorem 3 of arXiv 2507.07814
            leaves out.

    Raises:
        ValueError: If `heads` does not divide `dim`.
    """
    layer = Attention(dim, heads, mechanism=SoftmaxMechanism(bias=bias), qkv_bias=qkv_bias).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        layer.qkv.weight /= math.sqrt(dim)
        layer.qkv.weight[: 2 * dim] *= qk_std
        layer.out.weight /= math.sqrt(dim)
        layer.out.bias.zero_()
    return layer.requires_grad_(False)


def random_tokens(
    batch: int,
    tokens: int,
    dim: int,
    *,
    generator: torch.Generator,
    kind: InputKind = "normalised",
    correlation: float = 0.0,
) -> Float[Tensor, "batch token dim"]:
    r"""Return random tokens in float64.

    Args:
        batch: Number of sequences.
        tokens: Tokens a sequence.
        dim: Width of a token.
        generator: Source of randomness.
        kind: `"normalised"` (each token through a layer norm), `"shifted"` (normalised plus one common
            vector of norm $\sqrt{\mathtt{dim}}$), or `"raw"` (Gaussian).
        correlation: Weight of a component that all tokens of a sequence share, before normalisation; real
            tokens share much of their direction.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    x = torch.randn(batch, tokens, dim, generator=generator, dtype=torch.float64)
    x = x + correlation * torch.randn(batch, 1, dim, generator=generator, dtype=torch.float64)
    if kind == "raw":
        return x
    x = nn.functional.layer_norm(x, (dim,))
    if kind == "shifted":
        common = torch.randn(batch, 1, dim, generator=generator, dtype=torch.float64)
        x = x + common * math.sqrt(dim) / common.norm(dim=-1, keepdim=True)
    return x


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
