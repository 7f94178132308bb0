"""The image tower: a vision transformer that ends in an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.clip.stack import Activation, block_stack


class ImageTower(nn.Module):
    """Vision transformer from images in [0, 1] to embeddings; normalisation is its own first step.

    Called on images it returns embeddings of any length, which is what `EmbeddingAttack` takes as its model.

    Args:
        image_size: Height and width in pixels.
        patch_size: Side of a patch; must divide `image_size`.
        channels: Image channels.
        embed_dim: Width of the embedding, that of the text tower.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block.
        mlp_ratio: Hidden width of the MLP over `dim`.
        pre_norm: Whether tokens are normalised before the first block, as in CLIP.
        activation: Of the MLP.
        norm_eps: Epsilon of all normalisations.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Raises:
        ValueError: If a size is below 1 or does not divide.

    Example:
        >>> ImageTower(image_size=8, patch_size=4, embed_dim=6, dim=8, depth=1, heads=2)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        channels: int = 3,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        pre_norm: bool = True,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
    ) -> None:
        super().__init__()
        for name, size in {"channels": channels, "embed_dim": embed_dim}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} must be a positive divisor of image_size={image_size}")
        for name, value in (("mean", mean), ("std", std)):
            statistic = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            if len(statistic) not in (1, channels) or (name == "std" and not (statistic > 0).all()):
                raise ValueError(f"{name}={value!r} must be one number or one of each channel; std above 0")
            self.register_buffer(name, statistic)
        self.image_shape = (channels, image_size, image_size)
        self.patch = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, (image_size // patch_size) ** 2 + 1, dim))
        self.pre_norm = nn.LayerNorm(dim, eps=norm_eps) if pre_norm else nn.Identity()
        self.blocks = block_stack(
            dim, depth, heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.projection = nn.Linear(dim, embed_dim, bias=False)

    def tokens(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token dim"]:
        """Return what enters the first block: class token and patches with positions.

        Raises:
            ValueError: If the images have another shape.
        """
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"images have shape {tuple(x.shape[1:])}; this model takes {self.image_shape}")
        patches = self.patch((x - self.mean) / self.std).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1)
        return self.pre_norm(tokens + self.position)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings, not normalised."""
        return self.projection(self.norm(self.blocks(self.tokens(x))[:, 0]))
