"""The projected-gradient loop; it stands once, here. Objective, ball and step rule are its plugs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.steps import StepRule


class Objective(Protocol):
    """What an attack raises: a loss on logits, on an explanation, on an embedding."""

    def __call__(
        self, z: Float[Tensor, active * dims], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return the loss to ascend of each sample and whether the attack's goal is reached at `z`.

        Args:
            z: The points, differentiable where the loop needs the gradient.
            index: Which samples of the whole batch these are.
        """
        ...


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

    x_adv: Float[Tensor, batch * dims]
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


def ascend(
    objective: Objective,
    ball: Ball,
    rule: StepRule,
    *,
    steps: int,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    early_stop: bool = False,
) -> AttackResult:
    """Raise the objective inside the ball.

    Every point visited counts, the clean one and the last one included. The cost is `restarts * steps`
    forward and backward passes, one forward pass for the last point of each restart and, with random starts, one for
    the clean point. With early stopping, samples whose goal is reached are dropped from the batch.

    Args:
        objective: What to raise.
        ball: Where.
        rule: How to step.
        steps: Gradient steps of each restart.
        restarts: Walks from different starts; the worst point of all is kept.
        generator: Source of random starts; None starts at the clean point.
        early_stop: Whether to leave a sample alone once its goal is reached.

    Returns:
        The worst points.

    Raises:
        ValueError: If the objective's loss is not finite.
    """
    x = ball.centre
    worst, everyone = Worst(x), torch.arange(len(x), device=x.device)
    still = generator is None  # the first point of the walk is the clean one, and is visited as such
    if not still or ball.eps == 0 or steps == 0:
        with torch.no_grad():
            loss, reached = objective(x, everyone)
        _check_finite(loss)
        worst.visit(everyone, x, loss, reached)
        if ball.eps == 0 or steps == 0:
            return worst.result()
    for _ in range(restarts):
        # drawn for all, so that the points visited do not depend on who has been dropped
        z, active = x if still else ball.random_point(generator), everyone
        if early_stop:
            active = everyone[~worst.success]
            z = z[active]
        _walk(objective, ball, rule, worst, z, active, steps, early_stop)
    return worst.result()


def _walk(
    objective: Objective,
    ball: Ball,
    rule: StepRule,
    worst: Worst,
    z: Tensor,
    active: Tensor,
    steps: int,
    early_stop: bool,
) -> None:
    """Take one restart's steps from `z`, for the samples `active`."""
    near = ball if len(active) == len(ball.centre) else ball.at(active)
    rule.start(z)
    for step in range(steps):
        if not len(active):
            return
        z = z.detach().requires_grad_()
        loss, reached = objective(z, active)
        if step == 0:
            _check_finite(loss)
        worst.visit(active, z, loss, reached)
        if early_stop and reached.any():
            keep = (~reached).nonzero().squeeze(1)
            if not len(keep):
                return
            gradient = gradient_of(loss, z)[keep]
            worst.gradients[active] += 1  # of all: the batch went back as a whole
            active, near, z, loss = active[keep], near.at(keep), z[keep], loss[keep]
            rule.keep(keep)
        else:
            gradient = gradient_of(loss, z)
            worst.gradients[active] += 1
        with torch.no_grad():
            z = near.project(rule.propose(step, near, z.detach(), gradient, loss.detach()))
    with torch.no_grad():
        loss, reached = objective(z, active)
    _check_finite(loss)  # a NaN on the way spreads to the end
    worst.visit(active, z, loss, reached)


def gradient_of(loss: Tensor, z: Tensor) -> Tensor:
    """Return each sample's gradient; parameters collect nothing."""
    if not loss.requires_grad:
        warnings.warn(
            "the loss does not depend on the input through autograd (a constant or detached model): the "
            "attack sees a zero gradient and tries its starting points only",
            stacklevel=4,
        )
        return torch.zeros_like(z)
    return torch.autograd.grad(loss.sum(), z, allow_unused=True, materialize_grads=True)[0]


def _check_finite(loss: Tensor) -> None:
    if not loss.isfinite().all():
        bad = (~loss.isfinite()).nonzero().flatten()[:5].tolist()
        raise ValueError(f"the attack's loss is not finite for samples {bad} (of those still attacked)")
