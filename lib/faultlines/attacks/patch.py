"""A square of the image that may take any colour, and the attack that fills it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.attacks.attack import check_count
from faultlines.attacks.loop import Objective, gradient_of
from faultlines.attacks.norms import NORMS, Norm
from faultlines.attacks.pgd import PGD, WalkOptions

PLACES = ("gradient", "random")


@dataclass(frozen=True)
class Window:
    """The feasible set of a patch attack, in the place of the loop's `Ball`: free inside a mask, fixed outside.

    Attributes:
        centre: The clean images in [0, 1].
        mask: Which pixels are free.
        eps: Largest change of a pixel; 1 leaves them all of [0, 1].
    """

    centre: Float[Tensor, "batch c h w"]
    mask: Bool[Tensor, "batch 1 h w"]
    eps: float = 1.0
    norm: Norm = NORMS["linf"]

    def project(self, z: Tensor) -> Tensor:
        """Return `z` inside the mask, clipped, and the clean image outside."""
        lower, upper = (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)
        return torch.where(self.mask, z.clamp(lower, upper), self.centre)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Return images whose free pixels are drawn uniformly."""
        noise = torch.rand(self.centre.shape, generator=generator, device=generator.device)
        lower, upper = (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)
        return self.project(lower + noise.to(self.centre) * (upper - lower))

    def at(self, index: Tensor) -> Window:
        """Return the windows of some of the samples."""
        return Window(self.centre[index], self.mask[index], self.eps)


@dataclass(frozen=True)
class SquarePatch:
    """Where a square patch lies.

    Attributes:
        size: Its side in pixels.
        location: Row and column of its upper left corner, the same for all samples; `"gradient"` for the place
            of largest absolute gradient at the clean sample; `"random"` for one drawn per sample.

    Raises:
        ValueError: If the size is below 1 or the location is none of these.
    """

    size: int
    location: tuple[int, int] | str = "gradient"

    def __post_init__(self) -> None:
        check_count(self.size, "size")
        if isinstance(self.location, str):
            if self.location not in PLACES:
                raise ValueError(f"location={self.location!r} must be (row, column) or one of {list(PLACES)}")
        elif len(self.location) != 2 or min(self.location) < 0:
            raise ValueError(f"location={self.location!r} must be (row, column), both at least 0")

    def mask(
        self, objective: Objective, x: Float[Tensor, "batch c h w"], generator: torch.Generator
    ) -> Bool[Tensor, "batch 1 h w"]:
        """Return the patch of each sample.

        Args:
            objective: What will be raised; only `"gradient"` asks it.
            x: Clean images.
            generator: Only `"random"` draws from it.

        Raises:
            ValueError: If `x` holds no images or the patch does not lie in them.
        """
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; a patch takes [batch, channel, height, width]")
        n, _, height, width = x.shape
        rows, columns = height - self.size + 1, width - self.size + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"size={self.size} is larger than the image of {height} by {width} pixels")
        if self.location == "gradient":
            corner = self._steepest(objective, x)
        elif isinstance(self.location, str):  # "random"
            drawn = torch.randint(rows * columns, (n,), generator=generator, device=generator.device)
            corner = drawn.to(x.device)
        else:
            row, column = self.location
            if row >= rows or column >= columns:
                raise ValueError(
                    f"location={self.location!r} with size={self.size} leaves the image of {height} by {width}"
                )
            corner = torch.full((n,), row * columns + column, device=x.device)
        top, left = (corner // columns).reshape(-1, 1, 1, 1), (corner % columns).reshape(-1, 1, 1, 1)
        i = torch.arange(height, device=x.device)[:, None]
        j = torch.arange(width, device=x.device)
        return (i >= top) & (i < top + self.size) & (j >= left) & (j < left + self.size)

    def _steepest(self, objective: Objective, x: Tensor) -> Tensor:
        z = x.detach().requires_grad_()
        loss, _ = objective(z, torch.arange(len(x), device=x.device))
        size = gradient_of(loss, z).abs().sum(dim=1, keepdim=True)
        # gradients of a confident model may be 1e-30: a sum in float32 must not lose the order
        size = size / size.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
        return F.avg_pool2d(size, self.size, stride=1).flatten(1).argmax(dim=1)


class PatchAttack(PGD):
    r"""Signed gradient steps on the pixels of one square, which may take any value (arXiv 1712.09665, per image).

    Args:
        size: Side of the square in pixels.
        location: Row and column of its corner, `"gradient"` (per sample, where the clean gradient is
            largest) or `"random"` (per sample).
        steps: Gradient steps of each restart.
        step_size: Length of a step in pixels' values.
        eps: Largest change of a pixel; 1 leaves them all of [0, 1].
        loss: `"cross_entropy"`, `"margin"`, `"dlr"` or a function of `(logits, y)`.
        random_start: Whether the square begins as noise.
        restarts: Number of walks.
        targeted: Whether `y` names the class wanted.
        early_stop: Whether a sample is left alone once fooled.

    Raises:
        ValueError: If a value is out of range or a name unknown; at the call, if the square leaves the image.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).eval()
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> result = PatchAttack(size=3, location=(0, 5), steps=3)(model, x, y)
        >>> bool(torch.equal(result.x_adv[:, :, 3:], x[:, :, 3:]))
        True
    """

    def __init__(
        self,
        *,
        size: int,
        location: tuple[int, int] | str = "gradient",
        steps: int = 40,
        step_size: float = 0.1,
        eps: float = 1.0,
        random_start: bool = True,
        **options: Unpack[WalkOptions],
    ) -> None:
        super().__init__(
            eps=eps, steps=steps, step_size=step_size, norm="linf", random_start=random_start, **options
        )
        self.patch = SquarePatch(size, location)

    def region(self, objective: Objective, x: Tensor, generator: torch.Generator) -> Window:
        """Return the square of each sample."""
        return Window(x, self.patch.mask(objective, x, generator), self.eps)
