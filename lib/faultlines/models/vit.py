"""A small pre-norm vision transformer (Dosovitskiy et al. 2021) with pluggable attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from faultlines.models.attention import Attention, Fused
from faultlines.models.pixel_normalization import check_images, pixel_statistic, shape_of_images
from faultlines.models.recorder import current_tape
from faultlines.models.transformer_blocks import (
    AttentionChoice,
    Block,
    BlockStack,
    block_stack,
    check_mechanism,
    plug,
)

HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


class ViT(nn.Module):
    r"""Vision transformer on images in $[0, 1]$; normalisation is the model's own first step.

    Args:
        image_size: Height and width in pixels.
        patch_size: Side of a patch; must divide height and width.
        channels: Image channels.
        classes: Number of logits.
        image_shape: `(channels, height, width)`, in place of `channels` and `image_size`.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block; must divide `dim`.
        mlp_ratio: Hidden width of the MLP over `dim`; 0 leaves the MLP out.
        attention: Name of the mechanism: `"softmax"`, `"differential"`, `"rbf"`, `"linear"` or `"sigmoid"`; or, of
            `faultlines.models.mechanism_zoo`, `"l2"`, `"cosine"`, `"lipsformer"`, `"sparsemax"`, `"entmax"`,
            `"relu"`, `"off by one"`, `"gated"` or `"differential v2"`. Under the same seed all weights that two of
            them have are the same. Or a factory of one, called as
            `factory(heads, head_dim, **attention_options)` for every layer, or a module, of which every layer gets
            a copy: a `Mechanism`, or what takes `(q, k, v)` and returns the output, or the output and its map.
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

    blocks: BlockStack
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        image_size: int | None = None,
        patch_size: int,
        channels: int | None = None,
        classes: int,
        image_shape: tuple[int, int, int] | None = None,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        attention: AttentionChoice = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        pool: Literal["cls", "mean"] = "cls",
        qkv_bias: bool = True,
        qk_gain: float = 1.0,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
        fused: Fused = "auto",
    ) -> None:
        super().__init__()
        channels, height, width = shape_of_images(image_shape, channels, image_size)
        for name, size in {"channels": channels, "classes": classes, "dim": dim, "depth": depth}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if patch_size < 1 or min(height, width) < 1 or height % patch_size or width % patch_size:
            size = (
                f"image_size={height}"  # type: ignore[assignment]
                if image_shape is None
                else f"height and width of image_shape={image_shape}"
            )
            raise ValueError(f"patch_size={patch_size} must be a positive divisor of {size}")
        check_mechanism(attention)
        if pool not in ("cls", "mean"):
            raise ValueError(f"pool={pool!r} is not one of 'cls', 'mean'")
        self.pool = pool
        self.image_shape = (channels, height, width)
        tokens = (height // patch_size) * (width // patch_size) + (pool == "cls")
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, pixel_statistic(name, value, channels))
        self.patch = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, dim)) if pool == "cls" else None
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.blocks = block_stack(dim, depth, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, fused=fused)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        with torch.no_grad():
            for block in self.blocks:
                block.attention.qkv.weight[: 2 * dim] *= qk_gain
        plug(self.blocks, attention, attention_options)  # last: what it draws leaves the rest as it is

    def tokens(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token dim"]:
        """Return the embedded patches with positions, and the class token first where there is one.

        Raises:
            ValueError: If the images are no tensor or have another shape.
        """
        x = check_images(x, self.image_shape)
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


def _need_all_tokens(blocks: BlockStack) -> bool:
    """Return whether all tokens of the last block matter: for the recorder, a hook, or what is made for all of them."""
    last = blocks[-1]
    if type(last) is not Block or type(last.attention) is not Attention:
        return True
    if current_tape() is not None or not last.attention.any_queries():
        return True
    if any(getattr(torch_module, f"_global_{kind}") for kind in HOOKS):
        return True
    return any(getattr(layer, f"_{kind}") for layer in blocks.modules() for kind in HOOKS)
