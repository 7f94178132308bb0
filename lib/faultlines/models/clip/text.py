"""The text tower: a causal transformer that ends in an embedding."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.models.clip.stack import Activation, block_stack
from faultlines.models.mechanisms import plug


class TextTower(nn.Module):
    """Causal transformer from token numbers to embeddings, read at the end token.

    The end token is the one of the largest number, as in CLIP: what comes after it is padding, which a causal
    mask keeps from it.

    Args:
        vocabulary: Number of tokens.
        context: Length of a tokenised text.
        embed_dim: Width of the embedding, that of the image tower.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block.
        mlp_ratio: Hidden width of the MLP over `dim`.
        activation: Of the MLP.
        norm_eps: Epsilon of all normalisations.

    Raises:
        ValueError: If a size is below 1 or does not divide.

    Example:
        >>> text = TextTower(vocabulary=9, context=4, embed_dim=6, dim=8, depth=1, heads=2)
        >>> text(torch.tensor([[1, 8, 0, 0], [1, 2, 3, 8]])).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        embed_dim: int,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, size in {"vocabulary": vocabulary, "context": context, "embed_dim": embed_dim}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        self.vocabulary, self.context = vocabulary, context
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(0.01 * torch.randn(context, dim))
        self.blocks = block_stack(
            dim, depth, heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.projection = nn.Linear(dim, embed_dim, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        plug(self.blocks, "softmax", bias=self.causal())

    def causal(self) -> Float[Tensor, "query key"]:
        """Return the mask that is added to the scores: minus infinity where a key comes after its query."""
        return torch.full((self.context, self.context), -torch.inf).triu(1)

    def forward(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings, not normalised.

        Raises:
            ValueError: If the texts have another length.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.context:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}; [batch, {self.context}] is needed")
        x = self.norm(self.blocks(self.embedding(tokens) + self.position))
        return self.projection(x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)])
