"""A small convolutional network, with normalisation nowhere, on its convolutions only, or after every hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.plain_layers import (
    Activation,
    Centre,
    NormKind,
    check_plain,
    make_activation,
    make_norm,
)

Pool = Literal["average", "max"]


class CNN(nn.Module):
    r"""Convolutions 3 x 3, each followed by a halving pool, then one hidden linear layer and the logits.

    A hidden layer is convolution or linear, then normalised where `norm` says so, then activated. Average pooling
    keeps the network as smooth as its activation; max pooling is piecewise linear whatever the activation. Weights
    are named the same whatever the activation, as in `MLP`.

    Args:
        image_shape: `(channels, height, width)` of an image in $[0, 1]$.
        classes: Number of logits.
        channels: Channels of the convolutions; each halves height and width, rounded down.
        width: Width of the hidden linear layer.
        norm: `"none"`, `"conv"` (after the convolutions only) or `"hidden"` (after the linear layer, too).
        norm_kind: `"batch"` or `"layer"`; of images, the latter is over all channels and places of a sample.
        activation: `"relu"`, `"softplus"` or `"gelu"`.
        beta: Of softplus, $\log(1 + e^{\beta z}) / \beta$.
        pool: `"average"` or `"max"`.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Raises:
        ValueError: If a size is below 1, a name is unknown, `mean` or `std` does not fit, or the images are too
            small for so many pools.

    Example:
        >>> import torch
        >>> CNN(image_shape=(1, 14, 14), classes=10, norm="conv").eval()(torch.rand(5, 1, 14, 14)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        channels: Sequence[int] = (16, 32),
        width: int = 64,
        norm: Literal["none", "conv", "hidden"] = "none",
        norm_kind: NormKind = "batch",
        activation: Activation = "relu",
        beta: float = 1.0,
        pool: Pool = "average",
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
    ) -> None:
        super().__init__()
        sizes = {"image_shape": image_shape, "classes": (classes,), "channels": channels, "width": (width,)}
        check_plain(activation, beta, norm_kind, sizes)
        if norm not in ("none", "conv", "hidden"):
            raise ValueError(f"norm={norm!r} is not one of 'none', 'conv', 'hidden'")
        if pool not in ("average", "max"):
            raise ValueError(f"pool={pool!r} is not one of 'average', 'max'")
        before, height, wide = image_shape
        shrink = 2 ** len(channels)
        if min(height, wide) < shrink:
            raise ValueError(f"image_shape={image_shape} is too small to be halved {len(channels)} times")

        def hidden(layer: nn.Module, size: int, *, images: bool) -> nn.Sequential:
            normed = norm == "hidden" or (images and norm == "conv")
            norms = make_norm(norm_kind, size, images=images) if normed else nn.Identity()
            return nn.Sequential(layer, norms, make_activation(activation, beta))

        self.centre = Centre(image_shape, mean, std)
        self.convolutions = nn.ModuleList()
        for after in channels:
            self.convolutions.append(hidden(nn.Conv2d(before, after, 3, padding=1), after, images=True))
            before = after
        self.pool = nn.AvgPool2d(2) if pool == "average" else nn.MaxPool2d(2)
        flat = before * (height // shrink) * (wide // shrink)
        self.dense = hidden(nn.Linear(flat, width), width, images=False)
        self.head = nn.Linear(width, classes)

    def features(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature small_height small_width"]:
        """Return the last convolution's activated features, before its pool."""
        x = self.centre(x)
        for index, layer in enumerate(self.convolutions):
            x = layer(self.pool(x) if index else x)
        return x

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return self.head(self.dense(self.pool(self.features(x)).flatten(1)))
