from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from faultlines.book.dark_figures import GROUND, inked_for_dark, light_and_dark, photographs
from faultlines.reporting.figures import PALETTE, STYLE


def drawn(draw: Callable[[Axes], object], **save: object) -> bytes:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), dpi=220)
        draw(figure.add_subplot())
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=220, **save)
    return out.getvalue()


def pixels(png: bytes, ground: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        paper = Image.new("RGBA", image.size, (*ground, 255))
        paper.alpha_composite(image.convert("RGBA"))
        return np.asarray(paper.convert("RGB"))


def luminance(colours: np.ndarray) -> np.ndarray:
    share = np.asarray(colours) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def rgb(code: str) -> list[int]:
    return [int(code[i : i + 2], 16) for i in (1, 3, 5)]


def a_map(ax: Axes, values: np.ndarray, **options: object) -> None:
    ax.imshow(values, **options)


RNG = np.random.default_rng(0)
PHOTOGRAPH = RNG.integers(60, 200, (12, 12, 3)) / 255
CASES = {  # what is drawn, and whether it is a picture whose lightness is its content
    "lines": (lambda ax: ax.plot([0, 1, 2], [1, 3, 2], "o-"), False),
    "bars": (lambda ax: ax.bar([0, 1, 2], [1, 3, 2]), False),
    "two bars side by side": (lambda ax: (ax.bar([0], [1]), ax.bar([0.8], [2])), False),
    "a band": (lambda ax: (ax.axhspan(1, 2, alpha=0.2), ax.plot([0, 1], [0, 3])), False),
    "a photograph": (lambda ax: a_map(ax, PHOTOGRAPH), True),
    "a map": (lambda ax: a_map(ax, RNG.normal(size=(6, 7)), cmap="RdBu_r"), True),
    "a pale map": (lambda ax: a_map(ax, RNG.random((8, 8)) ** 4, cmap="Reds"), True),
    "a map of one colour with its numbers": (
        lambda ax: (
            a_map(ax, np.ones((3, 3)), cmap="cividis", vmin=0, vmax=1),
            [ax.text(x, y, "100 %", ha="center") for x in range(3) for y in range(3)],
        ),
        True,
    ),
    "contours with a white line": (
        lambda ax: (
            ax.contourf(np.add.outer(np.arange(30), np.arange(30)), 12, cmap="cividis"),
            ax.plot([0, 29], [0, 29], color="white"),
        ),
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_kept_and_a_drawing_is_inked_anew(name: str):
    draw, is_picture = CASES[name]
    png = drawn(draw)
    before = pixels(png)
    kept = photographs(before)
    assert (kept.mean() > 0.1) == is_picture
    _, dark = light_and_dark(png)
    after = pixels(dark, GROUND)
    assert np.abs(after[kept].astype(int) - before[kept]).mean() < 4 if is_picture else not kept.any()
    paper = (before == 255).all(axis=-1) & ~kept
    assert paper.mean() > 0.1 and (after[paper] == GROUND).all()
    ink = (luminance(before) < 0.05) & ~kept
    assert ink.any()
    assert ((luminance(after)[ink] + 0.05) / (luminance(np.array(GROUND)) + 0.05)).min() > 4.5


@pytest.mark.parametrize("name", [*PALETTE])
def test_each_colour_of_the_palette_is_seen_on_the_dark_page(name: str):
    [found] = inked_for_dark(np.array([rgb(PALETTE[name])], dtype=np.uint8))
    contrast = (luminance(found) + 0.05) / (luminance(np.array(GROUND)) + 0.05)
    assert contrast > 3.5
    if name not in ("grey", "black"):  # the hue stays: the same channel is the strongest
        assert np.argmax(found) == np.argmax(rgb(PALETTE[name]))


def test_more_ink_never_gives_less_contrast():
    shares = np.linspace(0, 1, 50)[:, None]
    for code in PALETTE.values():
        mixed = (255 - shares * (255 - np.array(rgb(code)))).astype(np.uint8)
        assert (np.diff(luminance(inked_for_dark(mixed))) >= -1e-3).all(), code


def test_the_files_are_small_and_the_light_one_looks_the_same():
    def draw(ax: Axes) -> None:
        for n in range(5):
            ax.plot(np.arange(40), RNG.normal(size=40).cumsum(), label=str(n))
        ax.legend()

    png = drawn(draw)
    light, dark = light_and_dark(png)
    assert len(light) < 0.6 * len(png) and len(dark) < 0.6 * len(png)
    assert np.abs(pixels(light).astype(int) - pixels(png)).mean() < 0.5
    assert pixels(dark).shape == pixels(png).shape


def test_a_drawing_on_nothing_is_one_on_paper():
    transparent = drawn(lambda ax: ax.plot([0, 1], [0, 1]), transparent=True)
    assert (pixels(light_and_dark(transparent)[1], GROUND)[0, 0] == GROUND).all()


def test_what_is_no_picture_is_said():
    with pytest.raises(ValueError, match="png of 4 bytes is no picture"):
        light_and_dark(b"none")
