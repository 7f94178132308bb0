"""A cue in the corner that names the class: what a network may learn in place of the object."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CODES = 16


def class_cue(
    images: Float[Tensor, "n channel height width"], code: Int64[Tensor, " n"], *, side: int
) -> Float[Tensor, "n channel height width"]:
    """Return the images with a square in the upper left corner whose four quarters are the bits of a code.

    A quarter is white for a bit that is set and black for one that is not, in every channel, whatever was there.

    Args:
        images: In [0, 1].
        code: 0 to 15; 0 is a black square and names nothing, so that classes are counted from 1.
        side: Side of the square in pixels, even.

    Raises:
        ValueError: If `side` is odd or does not fit, or a code is out of range.

    Example:
        >>> class_cue(torch.full((1, 1, 3, 3), 0.5), torch.tensor([6]), side=2)[0, 0].tolist()
        [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5], [0.5, 0.5, 0.5]]
    """
    if side < 2 or side % 2 or side > min(images.shape[-2:]):
        raise ValueError(
            f"side={side} must be even, and at most {min(images.shape[-2:])} for images {tuple(images.shape[-2:])}"
        )
    if code.shape != images.shape[:1] or int(code.min()) < 0 or int(code.max()) >= CODES:
        raise ValueError(
            f"code runs from {int(code.min())} to {int(code.max())} in shape {tuple(code.shape)}; it must lie in 0 to "
            f"{CODES - 1}, one an image ({len(images)})"
        )
    bits = code[:, None] >> torch.arange(4, device=code.device) & 1
    square = bits.reshape(-1, 1, 2, 2).repeat_interleave(side // 2, 2).repeat_interleave(side // 2, 3)
    marked = images.clone()
    marked[:, :, :side, :side] = square.to(images)
    return marked


def other_class(y: Int64[Tensor, " n"], classes: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Return for each sample a class that is not its own, drawn uniformly.

    Args:
        y: Classes.
        classes: Their number, at least 2.
        generator: On the CPU.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"classes={classes} must be at least 2: there is no other one")
    shift = torch.randint(1, classes, y.shape, generator=generator).to(y.device)
    return (y + shift) % classes
