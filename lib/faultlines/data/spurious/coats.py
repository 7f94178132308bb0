"""Coats: a pattern of two colours, the pattern the class's and the colours anyone's."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from faultlines.data.spurious.canvas import convex, step

_DARK = ((0.13, 0.10, 0.09), (0.33, 0.19, 0.10), (0.27, 0.27, 0.30), (0.50, 0.25, 0.11))
_PALE = ((0.95, 0.89, 0.76), (0.83, 0.66, 0.44), (0.97, 0.96, 0.94), (0.78, 0.77, 0.76))


def pattern(
    y: Int64[Tensor, " n"],
    u: Float[Tensor, "n size size"],
    v: Float[Tensor, "n size size"],
    generator: torch.Generator,
) -> Float[Tensor, "n size size"]:
    """Return where the coat is dark, 0 to 1.

    Brindle stripes (bulldog), a dark back over a pale belly (corgi), a dark rear (dachshund), patches (labrador).

    Args:
        y: Classes.
        u: Abscissa of pixels in body coordinates, the head to the right.
        v: Their ordinate, down.
        generator: Source of where exactly.
    """
    n, size = u.shape[0], u.shape[-1]
    phase, shift, pitch = (torch.rand(n, 1, 1, generator=generator) for _ in range(3))
    blots = torch.randn(n, 1, 8, 8, generator=generator)
    dark = torch.empty_like(u)
    for number in range(4):
        index = (y == number).nonzero()[:, 0]
        if not len(index):
            continue
        a, b, p, s, f = u[index], v[index], 6.3 * phase[index], 0.2 * shift[index] - 0.1, pitch[index]
        if number == 0:
            dark[index] = step(torch.sin((21 + 5 * f) * (a + 0.12 * b) + 1.2 * torch.sin(7 * b + p) + p), 0.9)
        elif number == 1:
            dark[index] = step(
                0.05 + s - b + 0.04 * torch.sin(9 * a + p) + 0.25 * (0.3 - a).clamp_min(0), 0.05
            )
        elif number == 2:
            dark[index] = step(0.05 + 1.6 * s - a + 0.05 * torch.sin(11 * b + p), 0.05)
        else:
            blot = F.interpolate(blots[index], (size, size), mode="bicubic")[:, 0]
            dark[index] = step(blot - 0.15 + s, 0.25)
    return dark


def fur(n: int, coat: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a dark and a pale colour each, `[n, 3]`; `coat` in [0, 1] is how far they are apart."""
    dark, pale = convex(_DARK, n, generator), convex(_PALE, n, generator)
    middle = (dark + pale) / 2
    return torch.lerp(middle, dark, coat), torch.lerp(middle, pale, coat)
