"""The plain networks, an MLP and a CNN, with normalisation nowhere or after hidden layers, smooth or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.pixel_normalization import Normalize, Statistic, shape_of_images

Activation = Literal["relu", "softplus", "gelu"]
NormKind = Literal["batch", "layer"]
Pool = Literal["average", "max"]


def check_plain(activation: str, beta: float, norm_kind: str, sizes: dict[str, Sequence[int]]) -> None:
    """Refuse what a plain network cannot be made of.

    Raises:
        ValueError: If a name is unknown, `beta` is not positive, or a size is below 1.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation={activation!r} is not one of {get_args(Activation)}")
    if not beta > 0:
        raise ValueError(f"beta={beta!r} must be positive")
    if norm_kind not in get_args(NormKind):
        raise ValueError(f"norm_kind={norm_kind!r} is not one of {get_args(NormKind)}")
    for name, values in sizes.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}={tuple(values)} must be at least one size, each at least 1")


def make_activation(activation: Activation, beta: float) -> nn.Module:
    r"""Return a ReLU, a GELU, or the softplus $\log(1 + e^{\beta z}) / \beta$, which is ReLU as $\beta \to \infty$."""
    # torch's softplus is linear where beta z is above its threshold, 20: there the second derivative would jump
    return {"relu": nn.ReLU(), "gelu": nn.GELU(), "softplus": nn.Softplus(beta=beta, threshold=40)}[
        activation
    ]


def make_norm(kind: NormKind, channels: int, *, images: bool) -> nn.Module:
    """Return a normalisation of `channels` features; of images, the layer kind takes all of a sample at once."""
    if kind == "batch":
        return nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if images else nn.LayerNorm(channels)


class MLP(nn.Module):
    r"""Linear layers with an activation between; normalisation of the input is the model's own first step.

    A hidden layer is linear, then normalised where `norm="hidden"`, then activated. Weights are named the same
    whatever the activation: `MLP(..., activation="softplus", beta=30).load_state_dict(relu.state_dict())` is the
    smooth twin of a ReLU network, whose second derivatives in the input exist everywhere.

    Args:
        image_shape: `(channels, height, width)` of an image in $[0, 1]$.
        classes: Number of logits.
        widths: Widths of the hidden layers.
        norm: `"none"` or `"hidden"`, after each hidden layer.
        norm_kind: `"batch"` or `"layer"`.
        activation: `"relu"`, `"softplus"` or `"gelu"`.
        beta: Of softplus, $\log(1 + e^{\beta z}) / \beta$.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.
        channels: Image channels, with `image_size` in place of `image_shape`, as `ViT` takes them.
        image_size: Height and width.

    Attributes:
        first: The first linear layer, which sees the centred, flat image.

    Raises:
        ValueError: If a size is below 1, a name is unknown, or `mean` or `std` does not fit.

    Example:
        >>> import torch
        >>> MLP(image_shape=(1, 8, 8), classes=10, widths=(32, 32), norm="hidden").eval()(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] | None = None,
        classes: int,
        widths: Sequence[int] = (128, 128),
        norm: Literal["none", "hidden"] = "none",
        norm_kind: NormKind = "batch",
        activation: Activation = "relu",
        beta: float = 1.0,
        mean: Statistic = 0.5,
        std: Statistic = 0.5,
        channels: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        image_shape = shape_of_images(image_shape, channels, image_size)
        sizes = {"image_shape": image_shape, "classes": (classes,), "widths": widths}
        check_plain(activation, beta, norm_kind, sizes)
        if norm not in ("none", "hidden"):
            raise ValueError(f"norm={norm!r} is not one of 'none', 'hidden'")
        channels, height, width = image_shape
        self.centre = Normalize(image_shape[0], mean, std, image_shape[1:])
        self.hidden = nn.ModuleList()
        before = channels * height * width
        for after in widths:
            norms = make_norm(norm_kind, after, images=False) if norm == "hidden" else nn.Identity()
            self.hidden.append(
                nn.Sequential(nn.Linear(before, after), norms, make_activation(activation, beta))
            )
            before = after
        self.head = nn.Linear(before, classes)

    @property
    def first(self) -> nn.Linear:
        """The first linear layer."""
        return cast(nn.Linear, cast(nn.Sequential, self.hidden[0])[0])

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        x = self.centre(x).flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


class CNN(nn.Module):
    r"""Convolutions 3 x 3, each followed by a halving pool, then one hidden linear layer and the logits.

    A hidden layer is convolution or linear, then normalised where `norm` says so, then activated. Average pooling
    keeps the network as smooth as its activation; max pooling is piecewise linear whatever the activation. Weights
    are named the same whatever the activation, as in `MLP`.

    Args:
        image_shape: `(channels, height, width)` of an image in $[0, 1]$.
        classes: Number of logits.
        filters: Channels of the convolutions; each halves height and width, rounded down.
        width: Width of the hidden linear layer.
        norm: `"none"`, `"conv"` (after the convolutions only) or `"hidden"` (after the linear layer, too).
        norm_kind: `"batch"` or `"layer"`; of images, the latter is over all channels and places of a sample.
        activation: `"relu"`, `"softplus"` or `"gelu"`.
        beta: Of softplus, $\log(1 + e^{\beta z}) / \beta$.
        pool: `"average"` or `"max"`.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.
        channels: Image channels, with `image_size` in place of `image_shape`, as `ViT` takes them.
        image_size: Height and width.

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
        image_shape: tuple[int, int, int] | None = None,
        classes: int,
        filters: Sequence[int] = (16, 32),
        width: int = 64,
        norm: Literal["none", "conv", "hidden"] = "none",
        norm_kind: NormKind = "batch",
        activation: Activation = "relu",
        beta: float = 1.0,
        pool: Pool = "average",
        mean: Statistic = 0.5,
        std: Statistic = 0.5,
        channels: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        image_shape = shape_of_images(image_shape, channels, image_size)
        sizes = {"image_shape": image_shape, "classes": (classes,), "filters": filters, "width": (width,)}
        check_plain(activation, beta, norm_kind, sizes)
        if norm not in ("none", "conv", "hidden"):
            raise ValueError(f"norm={norm!r} is not one of 'none', 'conv', 'hidden'")
        if pool not in ("average", "max"):
            raise ValueError(f"pool={pool!r} is not one of 'average', 'max'")
        before, height, wide = image_shape
        shrink = 2 ** len(filters)
        if min(height, wide) < shrink:
            raise ValueError(f"image_shape={image_shape} is too small to be halved {len(filters)} times")

        def hidden(layer: nn.Module, size: int, *, images: bool) -> nn.Sequential:
            normed = norm == "hidden" or (images and norm == "conv")
            norms = make_norm(norm_kind, size, images=images) if normed else nn.Identity()
            return nn.Sequential(layer, norms, make_activation(activation, beta))

        self.centre = Normalize(image_shape[0], mean, std, image_shape[1:])
        self.convolutions = nn.ModuleList()
        for after in filters:
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
