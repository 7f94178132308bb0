"""What attacks find: the worst point of a walk, the nearest point of a search, and the result of either."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.norms import Norm


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, sample by sample.

    Attributes:
        x_adv: The worst point visited, inside ball and box: one that reaches the goal if any did, and among
            those the one of largest loss. With early stopping the first one that reached the goal.
        success: Whether the goal is reached at `x_adv`, that is at any point visited, the clean one included.
        loss: The loss at `x_adv`.
        gradients: Gradient evaluations spent on the sample.
    """

    x_adv: Float[Tensor, "batch ..."]
    success: Bool[Tensor, " batch"]
    loss: Float[Tensor, " batch"]
    gradients: Int64[Tensor, " batch"]

    def at(self, index: Tensor | slice) -> AttackResult:
        """Return what was found for some of the samples."""
        return AttackResult(self.x_adv[index], self.success[index], self.loss[index], self.gradients[index])


class Worst:
    """The worst point so far of every sample: one that reaches the goal, and among those the largest loss."""

    def __init__(self, x: Tensor) -> None:
        self.x_adv = x.clone()
        self.success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.loss = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def visit(self, index: Tensor, z: Tensor, loss: Tensor, reached: Tensor) -> None:
        """Keep `z` for those of the samples `index` for which it is worse than what was there."""
        z, loss = z.detach(), loss.detach().to(self.loss.dtype)
        success, best = self.success[index], self.loss[index]
        worse = (reached & ~success) | ((reached == success) & (loss > best))
        shaped = worse.reshape(-1, *[1] * (z.ndim - 1))
        self.x_adv[index] = torch.where(shaped, z, self.x_adv[index])
        self.loss[index] = torch.where(worse, loss, best)
        self.success[index] = success | reached

    def add(self, index: Tensor, found: AttackResult) -> None:
        """Keep what another attack found for the samples `index`, and add up its cost."""
        self.visit(index, found.x_adv, found.loss, found.success)
        self.gradients[index] += found.gradients

    def result(self) -> AttackResult:
        """Return what was kept."""
        return AttackResult(self.x_adv, self.success, self.loss, self.gradients)


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
        x: Float[Tensor, "batch ..."],
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
