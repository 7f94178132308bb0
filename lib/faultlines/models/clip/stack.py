"""The stack of blocks that both towers are made of."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.attention import Attention
from faultlines.models.vit import Block

Activation = Literal["gelu", "quick_gelu"]


class QuickGELU(nn.Module):
    r"""$x\, \sigma(1.702\, x)$, the approximation that OpenAI's CLIP was trained with."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it."""
        return x * torch.sigmoid(1.702 * x)


def block_stack(
    dim: int, depth: int, heads: int, *, mlp_ratio: float, activation: Activation, norm_eps: float
) -> nn.Sequential:
    """Return pre-norm blocks with softmax attention; `CLIP` plugs other mechanisms in.

    Raises:
        ValueError: If a size is below 1, `heads` does not divide `dim`, or `activation` is unknown.
    """
    for name, size in {"dim": dim, "depth": depth}.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    if int(dim * mlp_ratio) < 1:
        raise ValueError(f"mlp_ratio={mlp_ratio} must leave the MLP at least one unit")
    if activation not in ("gelu", "quick_gelu"):
        raise ValueError(f"activation={activation!r} is not one of 'gelu', 'quick_gelu'")
    blocks = nn.Sequential(*(Block(dim, Attention(dim, heads), mlp_ratio) for _ in range(depth)))
    for block in blocks:
        block.norm1.eps = block.norm2.eps = norm_eps
        if activation == "quick_gelu":
            block.mlp[1] = QuickGELU()
    return blocks
