"""The six locations as pictures, a sky or wall above and the ground below, and the canvas they are painted on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from faultlines.data.spurious.grouped import LOCATIONS

Picture = Float[Tensor, "n 3 size size"]
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


def desert(canvas: Canvas) -> Picture:
    """Paint dunes with ripples under a hazy sky."""
    y, x = canvas.y, canvas.x
    horizon = canvas.uniform(0.26, 0.40)
    sky = mix(canvas.colour((0.42, 0.64, 0.90)), canvas.colour((0.96, 0.88, 0.72)), (y / horizon).clamp(0, 1))
    picture = sky
    for k, (rgb, drop) in enumerate(
        [((0.90, 0.70, 0.42), 0.0), ((0.86, 0.62, 0.34), 0.14), ((0.93, 0.74, 0.45), 0.34)]
    ):
        phase, bend = canvas.uniform(0, 2 * math.pi), canvas.uniform(1.6, 2.8)
        ridge = horizon + drop + (0.035 + 0.02 * k) * torch.sin(bend * x + phase)
        below = y - ridge
        slope = 0.5 + 0.5 * torch.cos(bend * x + phase)  # one side of a dune is lit
        ripple = torch.sin(70 * below.clamp_min(0).sqrt() + 3 * x + phase)
        light = 0.80 + 0.2 * slope + 0.045 * ripple
        picture = mix(picture, canvas.colour(rgb) * light, step(below, 0.015))
    return picture


def jungle(canvas: Canvas) -> Picture:
    """Paint trunks and creepers before leaves of many sizes."""
    y = canvas.y
    leaves = canvas.field(7) + 0.9 * canvas.field(16) + 0.7 * canvas.field(28)
    picture = mix(
        canvas.colour((0.04, 0.15, 0.06), 0.2), canvas.colour((0.20, 0.47, 0.12), 0.2), step(leaves, 2.6)
    )
    picture = mix(picture, canvas.colour((0.62, 0.80, 0.30)), 0.7 * step(leaves - 2.1, 1.0))
    trunk = step(canvas.field(1, 13) - 0.9, 0.35) * step(0.80 - y, 0.06)
    bark = canvas.colour((0.20, 0.14, 0.08), 0.15) * (1 + 0.18 * canvas.field(5, 26))
    picture = mix(picture, bark, 0.9 * trunk)
    floor = canvas.colour((0.13, 0.20, 0.07), 0.15) * (1 + 0.28 * canvas.field(20))
    return mix(picture, floor, 0.85 * step(y - canvas.uniform(0.74, 0.82) - 0.02 * canvas.field(1, 8), 0.05))


def dirt(canvas: Canvas) -> Picture:
    """Paint a bare track with ruts and pebbles, dry scrub at its end."""
    y, x = canvas.y, canvas.x
    horizon = canvas.uniform(0.16, 0.26)
    scrub = canvas.colour((0.47, 0.45, 0.28), 0.1) * (1 + 0.16 * canvas.field(10, 24))
    near = (y - horizon).clamp_min(0)
    light = 0.86 + 0.2 * near + 0.07 * canvas.field(9) + 0.07 * canvas.field(26)
    ground = canvas.colour((0.56, 0.39, 0.26), 0.08) * light
    vanishing, width = canvas.uniform(-0.4, 0.4), canvas.uniform(0.7, 1.0)
    offset = (x - vanishing).abs() - width * near
    ground = ground * (1 - 0.30 * torch.exp(-(offset / (0.04 + 0.16 * near)).square()))
    pebbles = step(canvas.field(30, 30) - 1.9, 0.5)
    ground = mix(ground, canvas.colour((0.74, 0.66, 0.57)), 0.7 * pebbles)
    return mix(scrub, ground, step(y - horizon - 0.012 * canvas.field(1, 12), 0.03))


def mountain(canvas: Canvas) -> Picture:
    """Paint two ranges, snow on the far one, over a meadow."""
    y = canvas.y
    sky = mix(canvas.colour((0.34, 0.56, 0.88)), canvas.colour((0.83, 0.90, 0.97)), (2 * y).clamp(0, 1))
    far = 0.24 + 0.11 * canvas.field(1, 6) + 0.035 * canvas.field(1, 15)
    rock = canvas.colour((0.44, 0.48, 0.58)) * (1 + 0.14 * canvas.field(6, 18))
    cap = far + 0.10 + 0.045 * canvas.field(1, 20)
    rock = mix(rock, canvas.colour((0.96, 0.97, 0.99), 0.02), step(cap - y, 0.02))
    picture = mix(sky, rock, step(y - far, 0.015))
    near = 0.50 + 0.06 * canvas.field(1, 7)
    picture = mix(
        picture, canvas.colour((0.22, 0.33, 0.30)) * (1 + 0.16 * canvas.field(16)), step(y - near, 0.015)
    )
    meadow = canvas.colour((0.40, 0.56, 0.24)) * (0.84 + 0.24 * y + 0.09 * canvas.field(22))
    return mix(picture, meadow, step(y - 0.66 - 0.02 * canvas.field(1, 5), 0.03))


def snow(canvas: Canvas) -> Picture:
    """Paint drifts with blue shadows while it snows."""
    y = canvas.y
    horizon = canvas.uniform(0.30, 0.42)
    sky = mix(canvas.colour((0.66, 0.72, 0.80)), canvas.colour((0.85, 0.88, 0.92)), (y / horizon).clamp(0, 1))
    drift = canvas.field(7, 4) + 0.5 * canvas.field(14, 5)
    ground = mix(
        canvas.colour((0.97, 0.98, 1.0), 0.02), canvas.colour((0.74, 0.82, 0.94), 0.04), step(drift, 3.0)
    )
    picture = mix(sky, ground, step(y - horizon - 0.025 * canvas.field(1, 5), 0.03))
    flakes = step(canvas.field(34) - 1.9, 0.6)
    return mix(picture, torch.ones(1, 3, 1, 1), 0.9 * flakes)


def beach(canvas: Canvas) -> Picture:
    """Paint sea between sky and sand, with waves, foam and a wet shore."""
    y, x = canvas.y, canvas.x
    horizon, shore = canvas.uniform(0.22, 0.30), canvas.uniform(0.48, 0.58)
    sky = mix(canvas.colour((0.36, 0.68, 0.95)), canvas.colour((0.86, 0.94, 0.98)), (y / horizon).clamp(0, 1))
    depth = ((y - horizon) / 0.3).clamp(0, 1)
    sea = mix(canvas.colour((0.04, 0.33, 0.56)), canvas.colour((0.24, 0.68, 0.74)), depth)
    waves = torch.sin(55 * (y - horizon).clamp_min(0).sqrt() + canvas.uniform(0, 6) + 2.5 * canvas.field(6))
    sea = mix(sea, canvas.colour((0.80, 0.93, 0.95)), 0.5 * step(waves - 0.75, 0.5))
    picture = mix(sky, sea, step(y - horizon, 0.015))
    below = y - shore - 0.035 * torch.sin(canvas.uniform(2, 4) * x + canvas.uniform(0, 6))
    sand = canvas.colour((0.95, 0.86, 0.66)) * (0.97 + 0.045 * canvas.field(28))
    sand = mix(canvas.colour((0.70, 0.59, 0.42)), sand, step(below - 0.10, 0.10))
    picture = mix(picture, sand, step(below, 0.02))
    return mix(picture, torch.full((1, 3, 1, 1), 0.98), 0.9 * torch.exp(-(below / 0.018).square()))


SCENES: dict[str, Callable[[Canvas], Picture]] = {
    scene.__name__: scene for scene in (desert, jungle, dirt, mountain, snow, beach)
}


def scenes(c: Int64[Tensor, " n"], size: int, generator: torch.Generator) -> Picture:
    """Paint a scene of each background number."""
    picture = torch.empty(len(c), 3, size, size)
    for number, name in enumerate(LOCATIONS):
        index = (c == number).nonzero()[:, 0]
        if len(index):
            picture[index] = SCENES[name](Canvas(len(index), size, generator))
    return picture


def neutral(n: int, size: int, generator: torch.Generator) -> Picture:
    """Paint grounds that tell nothing: soft clouds of a greyish colour."""
    canvas = Canvas(n, size, generator)
    tint = canvas.uniform(0.40, 0.70) + canvas.uniform(-0.05, 0.05, 3)
    return tint * (1 + 0.10 * canvas.field(5) + 0.07 * canvas.field(14))
