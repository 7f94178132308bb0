"""What scenes and animals are painted with: coordinates, smooth noise, colours, mixtures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Colour = tuple[float, float, float]


class Canvas:
    """A batch of square pictures of one size and the generator that their draws come from.

    Attributes:
        n: Pictures.
        size: Height and width in pixels.
        x: Abscissa of the pixel centres, -1 to 1, `[1, 1, 1, size]`.
        y: Ordinate, 0 at the top to 1 at the bottom, `[1, 1, size, 1]`.
    """

    def __init__(self, n: int, size: int, generator: torch.Generator) -> None:
        self.n, self.size, self.generator = n, size, generator
        line = (torch.arange(size) + 0.5) / size
        self.x = (2 * line - 1).view(1, 1, 1, size)
        self.y = line.view(1, 1, size, 1)

    def uniform(self, low: float, high: float, channels: int = 1) -> Float[Tensor, "n channel 1 1"]:
        """Draw numbers of each picture."""
        return low + (high - low) * torch.rand(self.n, channels, 1, 1, generator=self.generator)

    def field(self, rows: int, columns: int | None = None) -> Float[Tensor, "n 1 size size"]:
        """Draw smooth standard normal noise of so many cells down and across; a row of 1 is constant down."""
        grid = torch.randn(self.n, 1, rows, columns or rows, generator=self.generator)
        return F.interpolate(
            grid, (1 if rows == 1 else self.size, self.size), mode="bilinear", align_corners=True
        )

    def colour(self, rgb: Colour, jitter: float = 0.06) -> Float[Tensor, "n 3 1 1"]:
        """Return a colour of each picture, off the given one by up to `jitter` in light and half of it in hue."""
        light, hue = self.uniform(-jitter, jitter), self.uniform(-jitter / 2, jitter / 2, 3)
        return torch.tensor(rgb).view(1, 3, 1, 1) * (1 + light + hue)


def mix(
    under: Float[Tensor, "n 3 ..."], over: Float[Tensor, "n 3 ..."], weight: Float[Tensor, "n 1 ..."]
) -> Float[Tensor, "n 3 height width"]:
    """Paint `over` on `under` where the weight is 1."""
    return torch.lerp(under, over, weight)


def step(distance: Tensor, width: float) -> Tensor:
    """Return 1 well above 0, 0 well below, and a ramp of this width between."""
    return (distance / width + 0.5).clamp_(0, 1)


def convex(
    palette: Sequence[Colour], n: int, generator: torch.Generator, sharpness: float = 3.0
) -> Float[Tensor, "n 3"]:
    """Draw colours between those of a palette, mostly near one of them."""
    weight = torch.softmax(sharpness * torch.randn(n, len(palette), generator=generator), dim=1)
    return weight @ torch.tensor(palette)
