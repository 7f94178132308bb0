"""A small convolutional network whose explanations have a closed form: features, their mean, a linear head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SmallCNN(nn.Module):
    r"""Four convolutions with batch norm and ReLU, global average pooling, a linear layer.

    Images are in $[0, 1]$; normalisation is the first step of `features`. The logits are
    `head(features(x).mean((2, 3)))`, so Grad-CAM at the features is a weighted sum of them
    (Selvaraju et al. 2017, section 3.1).

    With the default kernels and strides a feature sees 15 x 15 pixels: less than an animal of 32 pixels, so that its
    map can tell where evidence lies. A last kernel of 3 widens that to 23.

    Args:
        channels: Image channels.
        classes: Number of logits.
        width: Channels of the first convolution; the others have 2, 4 and 4 times as many.
        strides: Strides of the first three convolutions. `(2, 2, 1)` makes 16 x 16 maps of 64 x 64 images;
            `(2, 2, 2)` makes 8 x 8 maps at under half of the cost.
        last_kernel: 1 or 3, the kernel of the fourth convolution.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Raises:
        ValueError: If a size, a stride, the kernel or a statistic is out of range.

    Example:
        >>> model = SmallCNN(classes=4)
        >>> model(torch.rand(2, 3, 64, 64)).shape, model.features(torch.rand(2, 3, 64, 64)).shape
        (torch.Size([2, 4]), torch.Size([2, 64, 16, 16]))
        >>> model.receptive_field, SmallCNN(classes=4, last_kernel=3).receptive_field
        (15, 23)
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 3,
        width: int = 16,
        strides: Sequence[int] = (2, 2, 1),
        last_kernel: int = 1,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.25,
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("classes", classes), ("width", width)):
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        strides = tuple(strides)
        if len(strides) != 3 or not all(stride in (1, 2) for stride in strides):
            raise ValueError(f"strides={strides} must be three numbers, each 1 or 2")
        if last_kernel not in (1, 3):
            raise ValueError(f"last_kernel={last_kernel} is not one of 1, 3")
        widths = (channels, width, 2 * width, 4 * width, 4 * width)
        kernels = (3, 3, 3, last_kernel)
        self.receptive_field = receptive_field(kernels, (*strides, 1))
        self.normalize = Normalize(channels, mean, std)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for before, after, kernel, stride in zip(
                    widths[:-1], widths[1:], kernels, (*strides, 1), strict=True
                )
            )
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature rows columns"]:
        """Return the last feature maps, at least 0."""
        return self.body(self.normalize(x))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return self.head(self.features(x).mean(dim=(2, 3)))


class Normalize(nn.Module):
    """Centre and scale image channels.

    Args:
        channels: Image channels.
        mean: Their means, one number or one each.
        std: Their standard deviations, above 0.

    Raises:
        ValueError: If a statistic does not fit.

    Example:
        >>> Normalize(1, 0.5, 0.25)(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    def __init__(self, channels: int, mean: Sequence[float] | float, std: Sequence[float] | float) -> None:
        super().__init__()
        self.channels = channels
        for name, value in (("mean", mean), ("std", std)):
            statistic = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            if len(statistic) not in (1, channels) or (name == "std" and not (statistic > 0).all()):
                raise ValueError(
                    f"{name}={value!r} must be one number or one for each of channels={channels}; std above 0"
                )
            self.register_buffer(name, statistic)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Return the normalised images.

        Raises:
            ValueError: If the images have another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; this model takes [batch, {self.channels}, height, width]"
            )
        return (x - self.mean) / self.std


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many pixels across one output of a stack of convolutions sees.

    Example:
        >>> receptive_field([3, 3], [2, 1])
        7
    """
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, jump = field + (kernel - 1) * jump, jump * stride
    return field
