"""Images in [0, 1] and what a network takes from them first: `(x - mean) / std` by channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of the colours, which weights trained on ImageNet expect."""

CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""The same, of CLIP."""

Statistic = Sequence[float] | float


def check_tensor(x: object, name: str) -> Tensor:
    """Return `x`; refuse what is no tensor, a numpy array above all.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(x, Tensor):
        return x
    kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    how = ": torch.from_numpy(x).float() makes one of it" if kind == "numpy.ndarray" else ""
    raise ValueError(f"{name} is a {kind}, a torch.Tensor is needed{how}")


def check_images(x: object, shape: tuple[int | None, ...]) -> Tensor:
    """Return the images; refuse those of another shape.

    Args:
        x: Images, `[batch, channel, height, width]`.
        shape: Channel, height and width that a network takes; None for any.

    Raises:
        ValueError: If they are no tensor, or their shape is another.
    """
    images = check_tensor(x, "images")
    if images.ndim != len(shape) + 1 or any(
        n not in (None, m) for n, m in zip(shape, images.shape[1:], strict=True)
    ):
        takes = tuple("any" if n is None else n for n in shape)
        raise ValueError(
            f"images have shape {tuple(images.shape[1:])}; this model takes {takes}".replace("'", "")
        )
    return images


def shape_of_images(
    image_shape: tuple[int, int, int] | None, channels: int | None, image_size: int | None
) -> tuple[int, int, int]:
    """Return `(channels, height, width)`, which every network takes in one of two ways.

    Args:
        image_shape: The three, or None for the other two arguments.
        channels: Image channels.
        image_size: Height and width.

    Raises:
        ValueError: If not exactly one way is taken, or what is given is no shape.

    Example:
        >>> shape_of_images((1, 8, 6), None, None), shape_of_images(None, 3, 32)
        ((1, 8, 6), (3, 32, 32))
    """
    if isinstance(channels, (tuple, list)):
        raise ValueError(
            f"channels={channels!r} is the number of image channels in every network; "
            "the channels of a CNN's convolutions are filters"
        )
    both = channels is not None and image_size is not None
    if (image_shape is None and not both) or (
        image_shape is not None and (channels is not None or image_size is not None)
    ):
        raise ValueError(
            f"image_shape={image_shape}, channels={channels}, image_size={image_size}: give image_shape, "
            "or the other two"
        )
    if image_shape is None:
        assert channels is not None and image_size is not None
        image_shape = (channels, image_size, image_size)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape={image_shape!r} must be (channels, height, width)")
    return image_shape


def pixel_statistic(name: str, value: Statistic, channels: int) -> Float[Tensor, "channel 1 1"]:
    """Return means or standard deviations of the channels as a tensor.

    Args:
        name: `"mean"` or `"std"`.
        value: One number, or one a channel; a standard deviation above 0.
        channels: Image channels.

    Raises:
        ValueError: If there are neither one nor as many as channels, or a standard deviation is not positive.
    """
    statistic = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
    if len(statistic) not in (1, channels) or (name == "std" and not (statistic > 0).all()):
        raise ValueError(
            f"{name}={value!r} must be one number or one for each of channels={channels}; std above 0"
        )
    return statistic


class Normalize(nn.Module):
    """Centre and scale image channels.

    Args:
        channels: Image channels.
        mean: Their means, one number or one each.
        std: Their standard deviations, above 0.
        size: Height and width, where the network takes no other.

    Raises:
        ValueError: If a statistic does not fit.

    Example:
        >>> Normalize(1, 0.5, 0.25)(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: Statistic, std: Statistic, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.shape = (channels, *(size or (None, None)))
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, pixel_statistic(name, value, channels))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the normalised images.

        Raises:
            ValueError: If the images have another number of channels, or another size where one is given.
        """
        return (check_images(x, self.shape) - self.mean) / self.std
