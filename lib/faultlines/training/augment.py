"""Image augmentation, batched and on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CropFlip:
    """Pad with zeros, crop back at a random place, mirror half of the images: the usual CIFAR augmentation.

    Args:
        padding: Pixels on each side; the largest shift.
        flip: Whether to mirror left and right.

    Raises:
        ValueError: If `padding` is negative.

    Example:
        >>> x = torch.rand(6, 3, 8, 8)
        >>> CropFlip(padding=2)(x, torch.Generator().manual_seed(0)).shape
        torch.Size([6, 3, 8, 8])
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} must be at least 0")

    def __call__(
        self, x: Float[Tensor, "batch channel height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channel height width"]:
        """Return a new batch; every draw comes from `generator`, which lives on the device of `x`."""
        batch, channels, height, width = x.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch, 1), generator=generator, device=x.device)

        rows = torch.arange(height, device=x.device) + draw(2 * self.padding + 1)  # [batch, height]
        columns = torch.arange(width, device=x.device).expand(batch, -1)
        if self.flip:
            columns = torch.where(draw(2).bool(), columns.flip(1), columns)
        columns = columns + draw(2 * self.padding + 1)  # [batch, width]
        padded = F.pad(x, [self.padding] * 4)
        image = torch.arange(batch, device=x.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=x.device).view(1, -1, 1, 1)
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
