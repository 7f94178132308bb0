"""Images of given classes before given backgrounds."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.data.dataset import check_count
from faultlines.data.spurious.animals import EAR, FAR, NEAR, fur, pattern, pose, signed_distance
from faultlines.data.spurious.grouped import CLASSES, LOCATIONS, GroupedImages
from faultlines.data.spurious.scenes import mix, neutral, scenes

CHUNK = 64  # images painted at once: what fits into the cache


def render_groups(
    y: Int64[Tensor, " n"],
    c: Int64[Tensor, " n"],
    *,
    environment: Int64[Tensor, " n"] | None = None,
    size: int = 64,
    bgs: float = 1.0,
    patch: int | None = None,
    coat: float = 1.0,
    noise: float = 0.03,
    seed: int = 0,
) -> GroupedImages:
    """Render one image of each class and background given.

    Pose, build, colours of the coat, the scene's layout and palette and the pixel noise vary within a group. Animals,
    scenes and noise are drawn from streams of their own: the animals of a seed are the same whatever the dials.

    Args:
        y: Classes, numbers in `CLASSES`.
        c: Backgrounds, numbers in `LOCATIONS`.
        environment: Carried along; zeros by default.
        size: Height and width in pixels, at least 32.
        bgs: Strength of the background in [0, 1]: its share in a mixture with a ground that tells nothing.
        patch: Side of the square, at a random place, that alone shows the scene; None fills the image.
        coat: Contrast of the coat in [0, 1].
        noise: Standard deviation of each pixel.
        seed: Seed of everything.

    Raises:
        ValueError: If labels or numbers are out of range.

    Example:
        >>> images = render_groups(torch.tensor([0, 3]), torch.tensor([4, 4]), size=32)
        >>> images.x.shape, images.group.tolist()
        (torch.Size([2, 3, 32, 32]), [4, 22])
    """
    check_dials(size=size, bgs=bgs, patch=patch, coat=coat, noise=noise)
    for name, labels, names in (("y", y, CLASSES), ("c", c, LOCATIONS)):
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(
                f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}; [n] and int64"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
            raise ValueError(
                f"{name} holds labels from {int(labels.min())} to {int(labels.max())}; "
                f"they must be 0 to {len(names) - 1}"
            )
    environment = torch.zeros_like(y) if environment is None else environment
    if not len(y) == len(c) == len(environment):
        raise ValueError(
            f"y has {len(y)} labels, c {len(c)} and environment {len(environment)}; need as many"
        )
    source = torch.Generator().manual_seed(seed)
    figures, grounds, places, grain = (
        torch.Generator().manual_seed(int(s)) for s in torch.randint(2**62, (4,), generator=source)
    )
    x, mask = torch.empty(len(y), 3, size, size), torch.empty(len(y), size, size, dtype=torch.bool)
    for start in range(0, len(y), CHUNK):
        where = slice(start, start + CHUNK)
        ground = _ground(c[where], size, bgs, patch, grounds, places)
        picture, mask[where] = _figure(ground, y[where], coat, figures)
        if noise:
            picture += noise * torch.randn(picture.shape, generator=grain)
        x[where] = picture.clamp_(0, 1)
    return GroupedImages(x, y, c, environment, mask)


def check_dials(*, size: int, bgs: float, patch: int | None, coat: float, noise: float) -> None:
    """Refuse dials out of range.

    Raises:
        ValueError: Naming the dial, its value and what is allowed.
    """
    check_count("size", size, 32)
    for name, value in (("bgs", bgs), ("coat", coat)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r} must lie in [0, 1]")
    if patch is not None and (
        isinstance(patch, bool) or not isinstance(patch, int) or not 4 <= patch <= size
    ):
        raise ValueError(f"patch={patch!r} must be an integer from 4 to size={size}, or None")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise!r} must be finite and at least 0")


def _ground(
    c: Tensor, size: int, bgs: float, patch: int | None, grounds: torch.Generator, places: torch.Generator
) -> Float[Tensor, "n 3 size size"]:
    # what does not depend on c comes from a stream of its own, so that at bgs=0 no pixel depends on c
    ground = neutral(len(c), size, grounds)
    side = size if patch is None else patch
    corner = torch.randint(0, size - side + 1, (len(c), 2), generator=grounds)
    scene = scenes(c, side, places)
    if side == size:
        return ground.lerp_(scene, bgs)
    inside = torch.arange(side)
    rows, columns = ((corner[:, k : k + 1] + inside) for k in (0, 1))  # [n, side]
    image, channel = torch.arange(len(c)).view(-1, 1, 1, 1), torch.arange(3).view(1, -1, 1, 1)
    place = (image, channel, rows[:, None, :, None], columns[:, None, None, :])
    ground[place] = torch.lerp(ground[place], scene, bgs)
    return ground


def _figure(
    ground: Tensor, y: Tensor, coat: float, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3 size size"], Tensor]:
    """Paint the animals on the ground; return the picture and where they are."""
    n, size = len(y), ground.shape[-1]
    pixel = 2 / size
    line = (torch.arange(size) + 0.5) * pixel - 1
    x, down = line.view(1, 1, size), line.view(1, size, 1)
    animals = pose(y, generator)
    to_body, place = animals.to_body, animals.place
    fromx, fromy = x - place[:, 0].view(n, 1, 1), down - place[:, 1].view(n, 1, 1)
    u, v = (to_body[:, k, 0].view(n, 1, 1) * fromx + to_body[:, k, 1].view(n, 1, 1) * fromy for k in (0, 1))
    dark, pale = fur(n, coat, generator)
    spots = pattern(y, u, v, generator)
    coated = mix(pale.view(n, 3, 1, 1), dark.view(n, 3, 1, 1), spots[:, None])

    scale = animals.scale.view(n, 1, 1)
    foot = place[:, 1].view(n, 1, 1) + 0.6 * scale
    shadow = torch.exp(-((fromx / (0.62 * scale)) ** 4)) * torch.exp(-(((down - foot) / (0.09 * scale)) ** 2))
    picture = ground * (1 - 0.45 * shadow[:, None])
    covered = torch.zeros(n, size, size)
    for limbs, light in ((FAR, 0.68), (NEAR, 1.0), (EAR, 0.80)):
        distance = signed_distance(animals, limbs, x, down)
        cover = (0.5 - distance / pixel).clamp_(0, 1)
        picture = mix(picture, coated * (light * _light(distance, pixel, scale))[:, None], cover[:, None])
        covered = torch.maximum(covered, cover)
    for spot, radius in ((animals.eye, 0.032), (animals.nose, 0.042)):
        reach = torch.hypot(x - spot[:, 0].view(n, 1, 1), down - spot[:, 1].view(n, 1, 1)) - radius * scale
        picture *= 1 - 0.9 * (0.5 - reach / pixel).clamp_(0, 1)[:, None]
    return picture, covered > 0.5


def _light(distance: Tensor, pixel: float, scale: Tensor) -> Tensor:
    """Return the light on a rounded body: edges that look up are bright, edges that look down dark."""
    slope = torch.zeros_like(distance)
    slope[:, 1:-1] = (distance[:, 2:] - distance[:, :-2]) / (2 * pixel)
    rim = (1 + distance / (0.22 * scale)).clamp_(0, 1)
    return 0.97 - 0.30 * slope * rim
