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


def partly_cued(
    images: Float[Tensor, "n channel height width"],
    y: Int64[Tensor, " n"],
    classes: int,
    *,
    share: float,
    honest: float,
    side: int,
    seed: int,
) -> Float[Tensor, "n channel height width"]:
    """Return images of which a share carries a cue, which names their class or, for some, another one.

    Args:
        images: In [0, 1].
        y: Classes, 0 to 14.
        classes: Their number.
        share: Chance of an image to carry a cue, in [0, 1].
        honest: Chance of a cue to name the image's class, in [0, 1].
        side: See `class_cue`; a class is coded by one more than its number.
        seed: Of which images carry one, and which of them a wrong one.

    Raises:
        ValueError: If a share is out of range; see `class_cue` and `other_class` for the rest.

    Example:
        >>> x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
        >>> cued = partly_cued(x, y, 3, share=1, honest=1, side=2, seed=0)
        >>> torch.equal(cued, class_cue(x, y + 1, side=2))
        True
    """
    for name, value in {"share": share, "honest": honest}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r} must lie in [0, 1]")
    draws = torch.Generator().manual_seed(seed)
    carries, true = (torch.rand(len(y), generator=draws).to(y.device) < p for p in (share, honest))
    named = torch.where(true, y, other_class(y, classes, draws))
    return torch.where(carries[:, None, None, None], class_cue(images, named + 1, side=side), images)
