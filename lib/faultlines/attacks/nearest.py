"""The nearest adversarial point so far of every sample, for attacks that minimise the perturbation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.loop import AttackResult
from faultlines.attacks.norms import Norm


class Nearest:
    """Keeps the nearest point; a sample whose goal is reached at the clean point is at distance 0 from it.

    Args:
        x: Clean samples.
        norm: What nearness is measured in.
        loss: The loss at the clean samples.
        reached: Whether the goal is reached there.
    """

    def __init__(
        self,
        x: Float[Tensor, batch * dims],
        norm: Norm,
        loss: Float[Tensor, " batch"],
        reached: Bool[Tensor, " batch"],
    ) -> None:
        self.x, self.norm = x, norm
        self.point, self.loss, self._clean_loss = x.clone(), loss.clone(), loss
        self.distance = torch.where(reached, 0.0, math.inf).to(x)
        self.gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def beyond(self, radius: float) -> Int64[Tensor, " active"]:
        """Return the samples whose nearest adversarial point is farther than a radius, or not found."""
        return (self.distance > radius).nonzero().squeeze(1)

    def visit(self, index: Tensor, z: Tensor, loss: Tensor, reached: Tensor) -> Bool[Tensor, " active"]:
        """Keep `z` where it reaches the goal nearer than before; return where it was kept."""
        z = z.detach()
        distance = self.norm.size(z - self.x[index])
        nearer = reached & (distance < self.distance[index])
        kept = index[nearer]
        self.point[kept], self.loss[kept] = z[nearer], loss.detach()[nearer].to(self.loss)
        self.distance[kept] = distance[nearer]
        return nearer

    def add(self, index: Tensor, other: Nearest) -> None:
        """Keep what another search for the samples `index` found nearer, and add up its cost."""
        nearer = other.distance < self.distance[index]
        kept = index[nearer]
        self.point[kept], self.loss[kept] = other.point[nearer], other.loss[nearer]
        self.distance[kept] = other.distance[nearer]
        self.gradients[index] += other.gradients

    def at(self, index: Tensor) -> Nearest:
        """Return a fresh search for some of the samples, nothing found yet."""
        nothing = torch.zeros(len(index), dtype=torch.bool, device=index.device)
        return Nearest(self.x[index], self.norm, self._clean_loss[index], nothing)

    def part(self, index: Tensor) -> Nearest:
        """Return what was found for some of the samples."""
        part = self.at(index)
        part.point, part.loss = self.point[index], self.loss[index]
        part.distance, part.gradients = self.distance[index], self.gradients[index]
        return part

    def result(self, eps: float = math.inf) -> AttackResult:
        """Return the nearest points within a radius, and the clean sample where there is none."""
        success = (self.distance <= eps) & self.distance.isfinite()
        shaped = success.reshape(-1, *[1] * (self.x.ndim - 1))
        return AttackResult(
            torch.where(shaped, self.point, self.x),
            success,
            torch.where(success, self.loss, self._clean_loss),
            self.gradients,
        )
