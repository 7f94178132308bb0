"""The feasible set of an attack: a norm ball around each sample, cut with the pixel box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.attacks.norms import Linf, Norm


@dataclass(frozen=True)
class Ball:
    r"""The points $\{z : \|z - x\| \le \epsilon,\ z \in [0, 1]^n\}$ around each sample $x$.

    Attributes:
        centre: The samples, `[batch, *]` in [0, 1].
        eps: Radius in pixels, where black is 0 and white is 1.
        norm: Its geometry.
    """

    centre: Float[Tensor, batch * dims]
    eps: float
    norm: Norm

    def project(self, z: Float[Tensor, batch * dims]) -> Float[Tensor, batch * dims]:
        """Return a feasible point near `z`: shrunk to the ball, then clipped to the box.

        Clipping does not leave the ball again, since the centre lies in the box. For the maximum norm this is
        the nearest feasible point; for others it is feasible but not always the nearest (as in foolbox).
        """
        if isinstance(self.norm, Linf):  # both are clips: one pass, and no rounding of the difference
            lower, upper = (self.centre - self.eps).clamp_(min=0), (self.centre + self.eps).clamp_(max=1)
            return z.clamp(lower, upper)
        return (self.centre + self.norm.shrink(z - self.centre, self.eps)).clamp_(0, 1)

    def random_point(self, generator: torch.Generator) -> Float[Tensor, batch * dims]:
        """Return a point drawn uniformly from the norm ball, clipped to the box."""
        return self.project(self.centre + self.norm.sample(self.centre, self.eps, generator))

    def at(self, index: Tensor) -> Ball:
        """Return the ball around some of the samples."""
        return Ball(self.centre[index], self.eps, self.norm)
