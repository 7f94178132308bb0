"""A small pre-norm vision transformer (Dosovitskiy et al. 2021) with pluggable attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from faultlines.models.attention import Attention, Fused
from faultlines.models.mechanisms import check_mechanism, plug
from faultlines.models.recorder import current_tape


class Block(nn.Module):
    """Pre-norm transformer block, `x + attention(norm(x))` then `x + mlp(norm(x))`."""

    def __init__(self, dim: int, attention: Attention, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim) if hidden else nn.Identity()
        self.mlp = (
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)) if hidden else None
        )

    def forward(
        self, x: Float[Tensor, "batch token dim"], queries: int | None = None
    ) -> Float[Tensor, "batch query dim"]:
        """Apply the block; only the first `queries` tokens come out, or all."""
        asking = x if queries is None else x[:, :queries]
        x = asking + self.attention(self.norm1(x), queries)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    r"""Vision transformer on images in $[0, 1]$; normalisation is the model's own first step.

    Args:
        image_size: Height and width in pixels.
        patch_size: Side of a patch; must divide `image_size`.
        channels: Image channels.
        classes: Number of logits.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block; must divide `dim`.
        mlp_ratio: Hidden width of the MLP over `dim`; 0 leaves the MLP out.
        attention: Name of the mechanism: `"softmax"`, `"differential"`, `"rbf"`, `"linear"` or `"sigmoid"`. Under
            the same seed all weights that two of them have are the same.
        attention_options: What the mechanism is made with; see `DifferentialAttention`, `RBFAttention`,
            `LinearAttention` and `SigmoidAttention`.
        pool: `"cls"` reads a class token, `"mean"` averages all tokens.
        qkv_bias: Whether the query, key and value projections have a bias.
        qk_gain: Factor on the initial query and key weights; 3 gives peaked maps from the start.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.
        fused: When attention may use a fused kernel; see `Attention`.

    Raises:
        ValueError: If sizes are not positive or do not divide, `mean` or `std` do not fit the channels, or a
            name is unknown.

    Example:
        >>> import torch
        >>> model = ViT(image_size=8, patch_size=2, channels=1, classes=10, dim=32, depth=2, heads=4)
        >>> model(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        channels: int,
        classes: int,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        attention: str = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        pool: Literal["cls", "mean"] = "cls",
        qkv_bias: bool = True,
        qk_gain: float = 1.0,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
        fused: Fused = "auto",
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "classes": classes, "dim": dim, "depth": depth}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if mlp_ratio < 0:
            raise ValueError(f"mlp_ratio={mlp_ratio} must be at least 0")
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} must be a positive divisor of image_size={image_size}")
        check_mechanism(attention)
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool={pool!r} is not one of 'cls', 'mean'")
        self.pool = pool
        self.image_shape = (channels, image_size, image_size)
        tokens = (image_size // patch_size) ** 2 + (pool == "cls")
        for name, value in (("mean", mean), ("std", std)):
            statistic = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            if len(statistic) not in (1, channels) or (name == "std" and not (statistic > 0).all()):
                raise ValueError(
                    f"{name}={value!r} must be one number or one for each of channels={channels}; std above 0"
                )
            self.register_buffer(name, statistic)
        self.patch = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, dim)) if pool == "cls" else None
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.blocks = nn.Sequential(
            *(
                Block(dim, Attention(dim, heads, qkv_bias=qkv_bias, fused=fused), mlp_ratio)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        with torch.no_grad():
            for block in self.blocks:
                block.attention.qkv.weight[: 2 * dim] *= qk_gain
        plug(self.blocks, attention, attention_options)  # last: what it draws leaves the rest as it is

    def tokens(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token dim"]:
        """Return the embedded patches with positions, and the class token first where there is one."""
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"images have shape {tuple(x.shape[1:])}; this model takes {self.image_shape}")
        x = self.patch((x - self.mean) / self.std).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        return x + self.position

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        x = self.tokens(x)
        if self.pool == "cls" and not _need_all_tokens(self.blocks):
            for block in self.blocks[:-1]:
                x = block(x)
            x = self.blocks[-1](x, queries=1)  # no other token of the last block is read
        else:
            x = self.blocks(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "cls" else x.mean(dim=1))


def _need_all_tokens(blocks: nn.Sequential) -> bool:
    """Return whether all tokens of the last block matter: for the recorder, a hook, or what is made for all of them."""
    last = blocks[-1]
    if type(last) is not Block or type(last.attention) is not Attention:
        return True
    if current_tape() is not None or getattr(last.attention.mechanism, "bias", None) is not None:
        return True
    if _global_forward_hooks or _global_forward_pre_hooks:
        return True
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in blocks.modules())
