"""Four quadrupeds of rounded limbs, in pose and build different from image to image, and their coats.

A coat is a pattern of two colours: the pattern is the class's, and the colours are anyone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from faultlines.data.spurious.scenes import Colour, step

# a limb is a round cone: (x, y, radius) at one end and at the other, the head to the right, y down, feet at 0.6
LIMBS = (
    "torso", "neck", "head", "muzzle", "tail", "front leg", "hind leg", "far front leg", "far hind leg", "ear",
    "far ear",
)  # fmt: skip
_BUILDS = (
    (  # bulldog: broad chest, large head, short muzzle, stub of a tail
        (-0.36, 0.06, 0.23, 0.26, 0.05, 0.31), (0.30, -0.06, 0.26, 0.46, -0.18, 0.24),
        (0.50, -0.22, 0.25, 0.60, -0.20, 0.23), (0.70, -0.11, 0.15, 0.79, -0.09, 0.13),
        (-0.54, -0.08, 0.05, -0.64, -0.16, 0.035), (0.24, 0.24, 0.13, 0.26, 0.53, 0.08),
        (-0.40, 0.20, 0.15, -0.42, 0.53, 0.075), (0.40, 0.24, 0.12, 0.43, 0.51, 0.075),
        (-0.24, 0.20, 0.12, -0.26, 0.51, 0.07), (0.40, -0.42, 0.065, 0.31, -0.33, 0.05),
        (0.60, -0.42, 0.05, 0.66, -0.40, 0.04),
    ),
    (  # corgi: long and low, large upright ears, pointed muzzle
        (-0.48, 0.14, 0.20, 0.34, 0.12, 0.24), (0.38, 0.02, 0.20, 0.54, -0.18, 0.16),
        (0.56, -0.22, 0.175, 0.63, -0.20, 0.165), (0.68, -0.17, 0.11, 0.87, -0.12, 0.055),
        (-0.64, 0.02, 0.08, -0.72, -0.03, 0.06), (0.32, 0.30, 0.11, 0.33, 0.55, 0.06),
        (-0.48, 0.28, 0.13, -0.49, 0.55, 0.06), (0.45, 0.30, 0.10, 0.47, 0.53, 0.055),
        (-0.34, 0.28, 0.11, -0.35, 0.53, 0.055), (0.49, -0.33, 0.095, 0.41, -0.66, 0.02),
        (0.64, -0.34, 0.085, 0.66, -0.65, 0.02),
    ),
    (  # dachshund: very long and low, thin muzzle and tail, hanging ears
        (-0.60, 0.22, 0.155, 0.42, 0.20, 0.18), (0.46, 0.10, 0.14, 0.62, -0.12, 0.11),
        (0.64, -0.16, 0.13, 0.71, -0.14, 0.12), (0.75, -0.11, 0.085, 0.99, -0.03, 0.045),
        (-0.72, 0.15, 0.055, -1.02, -0.10, 0.018), (0.38, 0.32, 0.085, 0.39, 0.56, 0.05),
        (-0.58, 0.32, 0.105, -0.59, 0.56, 0.05), (0.50, 0.32, 0.08, 0.52, 0.54, 0.045),
        (-0.46, 0.32, 0.09, -0.47, 0.54, 0.045), (0.60, -0.18, 0.065, 0.53, 0.06, 0.085),
        (0.64, -0.16, 0.05, 0.64, -0.10, 0.05),
    ),
    (  # labrador: tall, long legs, long raised tail
        (-0.40, -0.06, 0.19, 0.28, -0.07, 0.23), (0.34, -0.18, 0.17, 0.54, -0.44, 0.13),
        (0.56, -0.48, 0.155, 0.64, -0.46, 0.145), (0.68, -0.43, 0.105, 0.87, -0.37, 0.07),
        (-0.54, -0.14, 0.07, -0.90, -0.42, 0.03), (0.24, 0.08, 0.10, 0.26, 0.55, 0.055),
        (-0.42, 0.05, 0.13, -0.45, 0.55, 0.055), (0.38, 0.08, 0.09, 0.41, 0.53, 0.05),
        (-0.28, 0.05, 0.11, -0.30, 0.53, 0.05), (0.52, -0.52, 0.06, 0.45, -0.32, 0.075),
        (0.58, -0.48, 0.05, 0.58, -0.44, 0.05),
    ),
)  # fmt: skip
_HEAD = [LIMBS.index(name) for name in ("head", "muzzle", "ear", "far ear")]
_LEGS = [i for i, name in enumerate(LIMBS) if name.endswith("leg")]
NEAR = [LIMBS.index(n) for n in ("torso", "neck", "head", "muzzle", "tail", "front leg", "hind leg")]
FAR = [LIMBS.index(n) for n in ("far front leg", "far hind leg", "far ear")]
EAR = [LIMBS.index("ear")]
_DARK = ((0.13, 0.10, 0.09), (0.33, 0.19, 0.10), (0.27, 0.27, 0.30), (0.50, 0.25, 0.11))
_PALE = ((0.95, 0.89, 0.76), (0.83, 0.66, 0.44), (0.97, 0.96, 0.94), (0.78, 0.77, 0.76))


class Animals(NamedTuple):
    """Animals placed in the image, whose coordinates run from -1 to 1 with y down.

    Attributes:
        start: One end of every limb, `[n, limb, 2]`.
        end: The other.
        radii: Radius at the two ends, `[n, limb, 2]`.
        eye: `[n, 2]`.
        nose: `[n, 2]`.
        scale: Image units a unit of the body, `[n]`.
        to_body: Matrix from image to body coordinates, `[n, 2, 2]`, after `place` is taken off.
        place: The body's origin in the image, `[n, 2]`.
    """

    start: Float[Tensor, "n limb 2"]
    end: Float[Tensor, "n limb 2"]
    radii: Float[Tensor, "n limb 2"]
    eye: Float[Tensor, "n 2"]
    nose: Float[Tensor, "n 2"]
    scale: Float[Tensor, " n"]
    to_body: Float[Tensor, "n 2 2"]
    place: Float[Tensor, "n 2"]


def pose(y: Int64[Tensor, " n"], generator: torch.Generator) -> Animals:
    """Draw animals of the given classes: build, gait, carriage of head and tail, size, tilt, direction, place."""
    n = len(y)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    limbs = torch.tensor(_BUILDS)[y].view(n, len(LIMBS), 2, 3)
    point, radius = limbs[..., :2].clone(), limbs[..., 2] * uniform(0.92, 1.08, len(LIMBS), 1)
    point *= uniform(0.94, 1.06, 1, 1, 2)  # longer or taller
    nod = torch.stack([uniform(-0.05, 0.04), uniform(-0.06, 0.09)], dim=-1)[:, None, None]
    point[:, _HEAD] += nod
    point[:, LIMBS.index("neck"), 1] += nod[:, 0, 0]
    point[:, _LEGS, 1, 0] += uniform(-0.09, 0.09, len(_LEGS))
    point[:, LIMBS.index("tail"), 1] += uniform(-0.10, 0.10, 2)
    eye = point[:, LIMBS.index("head"), 1] + radius[:, LIMBS.index("head"), 1:] * torch.tensor([0.35, -0.30])
    tip, thick = point[:, LIMBS.index("muzzle"), 1], radius[:, LIMBS.index("muzzle"), 1:]
    nose = tip + thick * torch.tensor([0.75, -0.35])

    scale, tilt = uniform(0.74, 0.94), uniform(-0.12, 0.12)
    facing = 1 - 2 * torch.randint(0, 2, (n,), generator=generator)  # to the right or to the left
    cos, sin = tilt.cos(), tilt.sin()
    to_image = scale[:, None, None] * torch.stack(
        [torch.stack([facing * cos, -sin], 1), torch.stack([facing * sin, cos], 1)], dim=1
    )
    place = torch.stack([uniform(-0.10, 0.10), uniform(0.04, 0.24)], dim=1)

    def put(p: Tensor) -> Tensor:
        """Take points `[n, ..., 2]` of the body into the image."""
        flat = p.reshape(n, -1, 2) @ to_image.mT + place[:, None]
        return flat.view(p.shape)

    ends = put(point)
    return Animals(
        ends[:, :, 0],
        ends[:, :, 1],
        radius * scale[:, None, None],
        put(eye),
        put(nose),
        scale,
        torch.linalg.inv(to_image),
        place,
    )


def signed_distance(
    animals: Animals, limbs: list[int], x: Float[Tensor, "1 1 size"], y: Float[Tensor, "1 size 1"]
) -> Float[Tensor, "n size size"]:
    """Return how far pixels are outside the union of some limbs, negative inside; joints are smooth.

    Args:
        animals: The animals.
        limbs: Numbers of the limbs.
        x: Abscissa of the pixels.
        y: Their ordinate.
    """
    sharpness = (45 / animals.scale)[:, None, None]
    total = torch.zeros(())
    for limb in limbs:
        a, b, radius = animals.start[:, limb], animals.end[:, limb], animals.radii[:, limb]
        along = b - a
        unit = along / along.square().sum(dim=1, keepdim=True).clamp_min(1e-12)
        ax, ay, bx, by, ux, uy, r0, r1 = (
            v[:, None, None] for v in (*a.T, *along.T, *unit.T, *radius.T)
        )  # [n, 1, 1] each
        share = ((x - ax) * ux + (y - ay) * uy).clamp_(0, 1)
        dx, dy = torch.addcmul(x - ax, share, bx, value=-1), torch.addcmul(y - ay, share, by, value=-1)
        distance = dx.mul_(dx).addcmul_(dy, dy).sqrt_().sub_(share.mul_(r1 - r0)).sub_(r0)
        total = total + distance.mul_(-sharpness).exp_()
    return (
        total.clamp_min_(1e-30).log_().div_(-sharpness)
    )  # far away, where all terms underflow, still finite


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
    dark, pale = _between(_DARK, n, generator), _between(_PALE, n, generator)
    middle = (dark + pale) / 2
    return torch.lerp(middle, dark, coat), torch.lerp(middle, pale, coat)


def _between(
    palette: Sequence[Colour], n: int, generator: torch.Generator, sharpness: float = 3.0
) -> Float[Tensor, "n 3"]:
    """Draw colours between those of a palette, mostly near one of them."""
    weight = torch.softmax(sharpness * torch.randn(n, len(palette), generator=generator), dim=1)
    return weight @ torch.tensor(palette)
