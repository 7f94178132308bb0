r"""Geometry of a perturbation: norms, with projection, steepest direction and random start, and balls in the box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Norm(Protocol):
    """What the attack loop asks of a norm. All tensors are `[batch, *]`; samples never mix."""

    name: ClassVar[str]

    def size(self, delta: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Return the norm of each perturbation."""
        ...

    def steepest(self, gradient: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        r"""Return $\arg\max_{\|v\| \le 1} \langle v, g \rangle$, and 0 where the gradient is 0."""
        ...

    def shrink(self, delta: Float[Tensor, "batch ..."], eps: float) -> Float[Tensor, "batch ..."]:
        """Return the nearest perturbation of norm at most `eps`."""
        ...

    def sample(self, like: Tensor, eps: float, generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        """Return perturbations drawn uniformly from the ball of radius `eps`, of the shape of `like`."""
        ...


@dataclass(frozen=True)
class Linf:
    r"""The maximum norm, $\|\delta\|_\infty = \max_i |\delta_i|$."""

    name: ClassVar[str] = "linf"

    def size(self, delta: Tensor) -> Tensor:
        """Return the largest absolute change of each sample."""
        return delta.flatten(1).abs().amax(dim=1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign of the gradient."""
        return gradient.sign()

    def shrink(self, delta: Tensor, eps: float) -> Tensor:
        """Clip each entry."""
        return delta.clamp(-eps, eps)

    def sample(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Draw each entry uniformly."""
        uniform = torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
        return ((2 * uniform - 1) * eps).to(like.device)


@dataclass(frozen=True)
class L2:
    r"""The Euclidean norm, $\|\delta\|_2 = \sqrt{\sum_i \delta_i^2}$."""

    name: ClassVar[str] = "l2"

    def size(self, delta: Tensor) -> Tensor:
        """Return the length of each perturbation."""
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient at unit length."""
        # a confident model's gradient may be 1e-30: its squares underflow, its ratios do not
        largest = _per_sample(gradient.flatten(1).abs().amax(dim=1), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        length = _per_sample(self.size(scaled), scaled)
        return scaled / torch.where(length > 0, length, 1)

    def shrink(self, delta: Tensor, eps: float) -> Tensor:
        """Scale down what is too long."""
        length = _per_sample(self.size(delta), delta)
        return delta * torch.where(length > eps, eps / length, 1)

    def sample(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        r"""Draw a direction from a Gaussian and a radius as $\epsilon\, u^{1/n}$, $u$ uniform in [0, 1]."""
        options: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": like.dtype}
        direction = self.steepest(torch.randn(like.shape, **options))
        radius = eps * torch.rand(len(like), **options) ** (1 / max(like[0].numel(), 1))
        return (direction * _per_sample(radius, direction)).to(like.device)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


def as_norm(norm: str | Norm) -> Norm:
    """Return a norm by its name, or the norm itself.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(norm, str):
        return norm
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is not one of {sorted(NORMS)}, nor a Norm")
    return NORMS[norm]


@dataclass(frozen=True)
class Ball:
    r"""The points $\{z : \|z - x\| \le \epsilon,\ z \in [0, 1]^n\}$ around each sample $x$.

    Attributes:
        centre: The samples, `[batch, *]` in [0, 1].
        eps: Radius in pixels, where black is 0 and white is 1.
        norm: Its geometry.
    """

    centre: Float[Tensor, "batch ..."]
    eps: float
    norm: Norm

    def project(self, z: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return a feasible point near `z`: shrunk to the ball, then clipped to the box.

        Clipping does not leave the ball again, since the centre lies in the box. For the maximum norm this is
        the nearest feasible point; for others it is feasible but not always the nearest (as in foolbox).
        """
        if isinstance(self.norm, Linf):  # both are clips: one pass, and no rounding of the difference
            lower, upper = (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)
            return z.clamp(lower, upper)
        return (self.centre + self.norm.shrink(z - self.centre, self.eps)).clamp_(0, 1)

    def random_point(self, generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        """Return a point drawn uniformly from the norm ball, clipped to the box."""
        return self.project(self.centre + self.norm.sample(self.centre, self.eps, generator))

    def at(self, index: Tensor) -> Ball:
        """Return the ball around some of the samples."""
        return Ball(self.centre[index], self.eps, self.norm)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
