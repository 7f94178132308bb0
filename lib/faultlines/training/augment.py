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
        batch, _, height, width = x.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch,), generator=generator, device=x.device)

        down = draw(2 * self.padding + 1)
        mirrored = draw(2).bool() if self.flip else None
        right = draw(2 * self.padding + 1)
        # every crop is a view of the padded image, so that one is copied a row at a time and not a pixel at a time
        crops = (
            F.pad(x, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        )
        cropped = crops[torch.arange(batch, device=x.device), down, right]
        if mirrored is None:
            return cropped
        return torch.where(mirrored.view(-1, 1, 1, 1), cropped.flip(3), cropped)
