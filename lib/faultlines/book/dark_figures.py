"""Figures of a page for both themes: small files, and ink that is drawn for the dark page.

The notebooks hold pictures drawn on white. A page for the dark theme needs no second execution: paper becomes the
page's ground, black ink becomes light, coloured ink keeps its hue and gets the lightness that a dark ground asks for,
and photographs, maps and colour bars stay as they are, for their lightness is their content.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

GROUND = (18, 18, 18)
"""The theme's dark page, which a test in the browser compares; edges of letters fade into it."""

RECIPE = 3
"""Changes with what this module makes of a picture, so that no older one is taken for it."""

PAPER = 255
"""The last place of a palette of 256 colours, kept for paper."""

FAITHFUL = 35.0
"""Least peak signal-to-noise ratio in dB at which 256 colours stand for all that a picture has."""

FAINT = 0.45
"""A region whose middle pixel has less ink is a band over other ink, unless it is a rectangle of many colours."""

Pixels = npt.NDArray[np.uint8]
_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


def light_and_dark(png: bytes) -> tuple[bytes, bytes]:
    """Return a figure that was drawn on white in few bytes, and the same figure for a dark page.

    Args:
        png: The file's bytes.

    Returns:
        Two PNG files of the same size in pixels. Paper is transparent in the second.

    Raises:
        ValueError: If the bytes are no picture.
    """
    drawn = on_paper(png)
    pixels = np.asarray(drawn)
    kept = photographs(pixels)
    blank = (pixels == 255).all(axis=-1) & ~kept
    few = _few_colours(drawn)
    light = drawn if few is None else _with_paper(few, _palette(few), blank, (255, 255, 255))
    if few is not None and not kept.any():
        dark = _with_paper(few, inked_for_dark(_palette(few)), blank, GROUND)
    else:
        codes, where = np.unique(_codes(pixels), return_inverse=True)
        colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
        inked = inked_for_dark(colours)[where.reshape(-1)].reshape(pixels.shape)
        inked[kept] = pixels[kept]
        few = _few_colours(Image.fromarray(inked))
        if few is None:
            dark = Image.fromarray(np.dstack([inked, np.where(blank, 0, 255).astype(np.uint8)]))
        else:
            dark = _with_paper(few, _palette(few), blank, GROUND)
    return min(_saved(light), png, key=len), _saved(dark, transparency=PAPER if dark.mode == "P" else None)


def on_paper(png: bytes) -> Image.Image:
    """Return a picture on white, without transparency.

    Raises:
        ValueError: If the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(png)) as image:
            paper = Image.new("RGBA", image.size, "white")
            paper.alpha_composite(image.convert("RGBA"))
    except OSError as error:
        raise ValueError(f"png of {len(png)} bytes is no picture that can be read: {error}") from None
    return paper.convert("RGB")


def photographs(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Return where a figure shows pictures: solid regions with many colours, such as photographs, maps, colour bars.

    Args:
        pixels: `[height, width, 3]`, drawn on white.

    Returns:
        `[height, width]`. A region that is a rectangle counts with all that it encloses.
    """
    from scipy import ndimage

    inked = (pixels < 255).any(axis=-1)
    thick = max(5, pixels.shape[1] // 160) | 1  # wider than lines and letters; odd, so that it has a middle
    thin = ndimage.minimum_filter(inked, thick, mode="constant")
    solid = ndimage.maximum_filter(thin, thick, mode="constant")
    solid = ndimage.binary_closing(solid, np.ones((7, 7)))  # a white line across a map parts nothing
    regions = np.zeros(solid.shape, dtype=np.int32)
    ndimage.label(solid, output=regions)
    found = np.zeros(solid.shape, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        region = regions[box] == number
        if min(region.shape) < pixels.shape[1] / 80:  # a marker
            continue
        # without the axes and edges that it touches
        inner: Any = ndimage.binary_erosion(region, np.ones((7, 7)))
        inside = pixels[box][inner if inner.any() else region]
        fill, high, wide = region.mean(), region.shape[0] / pixels.shape[1], region.shape[1] / pixels.shape[1]
        faint = np.median(1 - inside.min(axis=-1) / 255) < FAINT
        many, ruling = _colours(inside)
        broad = min(high, wide) > 0.08 or (high > 0.04 and wide > 0.2)
        # a map of few colours with numbers in it, or a legend on a ground of its own, but no bar
        one_colour = fill > 0.97 and 0.5 <= ruling < 0.96 and broad
        if (fill > 0.85 and many) or (not faint and (many or one_colour)):
            found[box] |= np.ones_like(region) if fill > 0.85 else ndimage.binary_fill_holes(region)
    return found


def _colours(inside: Pixels) -> tuple[bool, float]:
    # photographs have many shades, none of which rules; maps have many colours, each on a cell of its own
    shades = np.unique(_codes(inside // 16), return_counts=True)[1] / len(inside)
    cells = np.unique(_codes(inside), return_counts=True)[1] / len(inside)
    many = ((shades > 0.005).sum() >= 8 and shades.max() < 0.4) or (cells > 0.003).sum() >= 12
    return bool(many), float(cells.max())


def _codes(colours: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def inked_for_dark(colours: Pixels) -> Pixels:
    """Return the colours that stand on a dark page for those of a drawing on white.

    A colour is taken for ink of which some paper shows through, as at the edge of a letter or in a band. The same
    share of the dark ground shows through the ink that stands for it: of the same hue, and light.

    Args:
        colours: `[n, 3]`.

    Returns:
        `[n, 3]`; white gives the ground.

    Example:
        >>> inked_for_dark(np.array([[255, 255, 255], [0, 0, 0]], dtype=np.uint8)).tolist()
        [[18, 18, 18], [230, 230, 230]]
    """
    paper = 255.0
    cover = 1 - colours.min(axis=1, keepdims=True) / paper
    ink = np.where(cover > 0, (colours - (1 - cover) * paper) / np.maximum(cover, 1e-9), 0.0)
    lab = _oklab(ink / paper)
    colourful = np.minimum(1, np.hypot(lab[:, 1], lab[:, 2]) / 0.13)
    lab[:, 0] = np.maximum(lab[:, 0], 0.925 - 0.2 * colourful)
    light = paper * _srgb(lab)
    cover **= (1 - 0.4 * colourful)[:, None]  # a pale colour that is solid stays one
    return np.rint(cover * light + (1 - cover) * np.array(GROUND)).astype(np.uint8)


def _oklab(srgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # https://bottosson.github.io/posts/oklab/
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def _srgb(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _few_colours(image: Image.Image) -> Image.Image | None:
    few = image.quantize(PAPER, dither=Image.Dither.NONE)
    error = np.asarray(few.convert("RGB"), dtype=np.float32) - np.asarray(image)
    noise = float((error**2).mean())
    return few if noise == 0 or 10 * np.log10(255**2 / noise) >= FAITHFUL else None


def _palette(image: Image.Image) -> Pixels:
    return np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[:PAPER]


def _with_paper(
    few: Image.Image, palette: Pixels, blank: npt.NDArray[np.bool_], paper: tuple[int, int, int]
) -> Image.Image:
    indices = np.asarray(few).copy()
    indices[blank] = PAPER
    image = Image.fromarray(indices, mode="P")
    colours = np.zeros((PAPER + 1, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[PAPER] = paper
    image.putpalette(colours.tobytes())
    return image


def _saved(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(
        out, "PNG", optimize=True, **{name: value for name, value in options.items() if value is not None}
    )
    return out.getvalue()
