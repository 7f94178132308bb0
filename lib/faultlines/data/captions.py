"""Rendered images with captions: one shape each, of a colour, a texture and a place."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.65, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.90, 0.85, 0.15),
    "purple": (0.55, 0.20, 0.70),
    "orange": (0.95, 0.55, 0.10),
    "cyan": (0.15, 0.80, 0.85),
    "white": (0.97, 0.97, 0.97),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
TEXTURES = ("plain", "striped", "checkered", "dotted")
POSITIONS: dict[str, tuple[float, float]] = {  # centre as (x, y) in [-1, 1], y down
    "in the middle": (0.0, 0.0),
    "at the top left": (-0.42, -0.42),
    "at the top right": (0.42, -0.42),
    "at the bottom left": (-0.42, 0.42),
    "at the bottom right": (0.42, 0.42),
}
ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "position": tuple(POSITIONS)}


@dataclass(frozen=True, repr=False)
class CaptionedImages:
    """Images with what they show.

    Attributes:
        x: Images, `[n, 3, size, size]` in [0, 1].
        captions: One a sample, "a red striped circle at the top left".
        attributes: Numbers of colour, shape, texture and position in `ATTRIBUTES`, `[n, 4]`.
    """

    x: Float[Tensor, "n channel height width"]
    captions: tuple[str, ...]
    attributes: Int64[Tensor, "n attribute"]

    def labels(self, attribute: str) -> Int64[Tensor, " n"]:
        """Return the classes of one attribute, numbered as `prompts` does.

        Raises:
            ValueError: If the attribute is unknown.
        """
        _check_attribute(attribute)
        return self.attributes[:, list(ATTRIBUTES).index(attribute)]


def caption(colour: int, shape: int, texture: int, position: int) -> str:
    """Return the caption of four attribute numbers.

    Example:
        >>> caption(0, 0, 1, 1)
        'a red striped circle at the top left'
    """
    return f"a {list(COLOURS)[colour]} {TEXTURES[texture]} {SHAPES[shape]} {list(POSITIONS)[position]}"


def all_captions() -> list[str]:
    """Return every caption there can be, 960."""
    return [caption(*numbers) for numbers in itertools.product(*(range(len(v)) for v in ATTRIBUTES.values()))]


def prompts(attribute: str) -> list[str]:
    """Return a zero-shot prompt a class: the caption's words for this attribute alone.

    Raises:
        ValueError: If the attribute is unknown.

    Example:
        >>> prompts("texture")
        ['a plain', 'a striped', 'a checkered', 'a dotted']
    """
    _check_attribute(attribute)
    return [name if attribute == "position" else f"a {name}" for name in ATTRIBUTES[attribute]]


def captioned_images(n: int, *, size: int = 32, noise: float = 0.03, seed: int = 0) -> CaptionedImages:
    """Render `n` images with independent, uniform attributes.

    Place, extent, angle, brightness and the grey of the ground vary within a class. Edges are smooth over a
    pixel. Everything is computed for all images at once.

    Args:
        n: Images.
        size: Height and width in pixels, at least 8.
        noise: Standard deviation of the noise of each pixel.
        seed: Seed of everything.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> data = captioned_images(3, seed=1)
        >>> data.x.shape, len(data.captions), data.attributes.shape
        (torch.Size([3, 3, 32, 32]), 3, torch.Size([3, 4]))
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    if size < 8:
        raise ValueError(f"size={size} must be at least 8")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise} must be finite and at least 0")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        """Draw `[n, *shape]` numbers."""
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    attributes = torch.stack(
        [torch.randint(len(names), (n,), generator=generator) for names in ATTRIBUTES.values()], dim=1
    )
    colour, shape, texture, position = attributes.unbind(dim=1)
    centre = torch.tensor(list(POSITIONS.values()))[position] + uniform(-0.08, 0.08, 2)
    radius, angle = uniform(0.34, 0.46), uniform(-0.3, 0.3)

    line = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    u, v = ((z - centre[:, i, None, None]) / radius[:, None, None] for i, z in enumerate((x, y)))
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = cos * u + sin * v, cos * v - sin * u  # [n, size, size], the shape within [-1, 1]

    pixel = 2 / size / radius[:, None, None]
    cover = (0.5 - _pick(_distances(u, v), shape) / pixel).clamp(0, 1)
    dark = 1 - 0.65 * _pick(_textures(u, v), texture)
    paint = torch.tensor(list(COLOURS.values()))[colour] * uniform(0.85, 1.0, 1)
    figure = paint[:, :, None, None] * dark[:, None]
    ground = uniform(0.2, 0.5)[:, None, None, None]
    image = ground + cover[:, None] * (figure - ground)
    image = image + noise * torch.randn(image.shape, generator=generator)
    return CaptionedImages(
        image.clamp(0, 1), tuple(caption(*numbers) for numbers in attributes.tolist()), attributes
    )


def _distances(u: Tensor, v: Tensor) -> list[Tensor]:
    """Return how far a point is outside each shape, negative inside, in the order of `SHAPES`."""
    r = (u.square() + v.square()).sqrt()
    a, b = u.abs(), v.abs()
    cross = torch.minimum(torch.maximum(a - 1.0, b - 0.3), torch.maximum(a - 0.3, b - 1.0))
    triangle = torch.maximum(v - 0.7, (a * math.sqrt(3) - v) / 2 - 0.5)
    return [
        r - 0.9,
        torch.maximum(a, b) - 0.8,
        triangle,
        (a + b - 1.1) / math.sqrt(2),
        cross,
        (r - 0.72).abs() - 0.22,
    ]


def _textures(u: Tensor, v: Tensor) -> list[Tensor]:
    """Return which points are dark, 0 or 1, in the order of `TEXTURES`; five periods across the shape's extent."""
    first, second = ((z * 2.5).floor() % 2 for z in (u, v))
    du, dv = ((z * 2.5) % 1 - 0.5 for z in (u, v))
    return [torch.zeros_like(u), second, (first + second) % 2, (du.square() + dv.square() < 0.09).to(u)]


def _pick(choices: list[Tensor], index: Int64[Tensor, " n"]) -> Tensor:
    return torch.stack(choices)[index, torch.arange(len(index))]


def _check_attribute(attribute: str) -> None:
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute={attribute!r} is not one of {list(ATTRIBUTES)}")
