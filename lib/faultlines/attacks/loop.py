"""The projected-gradient loop; it stands once, here. Objective, ball and step rule are its plugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.norms import Norm
from faultlines.attacks.results import AttackResult, Worst


class Objective(Protocol):
    """What an attack raises: a loss on logits, on an explanation, on an embedding."""

    def __call__(
        self, z: Float[Tensor, "active ..."], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return the loss to ascend of each sample and whether the attack's goal is reached at `z`.

        Args:
            z: The points, differentiable where the loop needs the gradient.
            index: Which samples of the whole batch these are.
        """
        ...


class Region(Protocol):
    """Where an attack may walk: a `Ball`, or the window of a patch."""

    @property
    def centre(self) -> Float[Tensor, "batch ..."]:
        """The clean samples."""
        ...

    @property
    def eps(self) -> float:
        """Largest change, in the norm."""
        ...

    @property
    def norm(self) -> Norm:
        """What steps and changes are measured in."""
        ...

    def project(self, z: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return a feasible point near `z`."""
        ...

    def random_point(self, generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        """Return a feasible point drawn at random."""
        ...

    def at(self, index: Tensor) -> Region:
        """Return the region around some of the samples."""
        ...


class StepRule(Protocol):
    """A plug of the loop. A rule with memory (momentum, per-sample step sizes) keeps it between calls."""

    def start(self, z: Float[Tensor, "batch ..."]) -> None:
        """Forget what was before: a walk begins at `z`."""
        ...

    def keep(self, index: Tensor) -> None:
        """Keep the memory of these samples of the batch only; the others have been dropped."""
        ...

    def propose(
        self,
        step: int,
        ball: Region,
        z: Float[Tensor, "batch ..."],
        gradient: Float[Tensor, "batch ..."],
        loss: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch ..."]:
        """Return the next point; the loop projects it. `gradient` is free to be overwritten."""
        ...


@dataclass(frozen=True)
class FixedStep:
    r"""Steepest ascent with one step size, $z + \alpha\, \arg\max_{\|v\| \le 1} \langle v, \nabla L \rangle$.

    Attributes:
        step_size: $\alpha$, in the units of `eps`.
    """

    step_size: float

    def start(self, z: Tensor) -> None:
        """Keep nothing."""
        del z

    def keep(self, index: Tensor) -> None:
        """Keep nothing."""
        del index

    def propose(self, step: int, ball: Region, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Take the step."""
        del step, loss
        return z.add(ball.norm.steepest(gradient), alpha=self.step_size)


def ascend(
    objective: Objective,
    ball: Region,
    rule: StepRule,
    *,
    steps: int,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    early_stop: bool = False,
    note: Callable[[Tensor, Tensor], None] | None = None,
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
        note: Called at every step with the gradients and whether the goal is reached there.

    Returns:
        The worst points.

    Raises:
        ValueError: If the objective's loss is not finite, or does not depend on the points.
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
        z, active = x if generator is None else ball.random_point(generator), everyone
        if early_stop:
            active = everyone[~worst.success]
            z = z[active]
        _walk(objective, ball, rule, worst, z, active, steps, early_stop, note)
    return worst.result()


def _walk(
    objective: Objective,
    ball: Region,
    rule: StepRule,
    worst: Worst,
    z: Tensor,
    active: Tensor,
    steps: int,
    early_stop: bool,
    note: Callable[[Tensor, Tensor], None] | None,
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
        if early_stop and reached.all():
            return
        gradient = gradient_of(loss, z)
        worst.gradients[active] += 1  # of those dropped below too: the batch went back as a whole
        if note is not None:
            note(gradient, reached)
        if early_stop and reached.any():
            keep = (~reached).nonzero().squeeze(1)
            active, near, z, loss = active[keep], near.at(keep), z[keep], loss[keep]
            gradient = gradient[keep]
            rule.keep(keep)
        with torch.no_grad():
            z = near.project(rule.propose(step, near, z.detach(), gradient, loss.detach()))
    with torch.no_grad():
        loss, reached = objective(z, active)
    _check_finite(loss)  # a NaN on the way spreads to the end
    worst.visit(active, z, loss, reached)


def gradient_of(loss: Tensor, z: Tensor) -> Tensor:
    """Return each sample's gradient; parameters collect nothing.

    Raises:
        ValueError: If autograd sees no way from the loss to `z`.
    """
    gradient = torch.autograd.grad(loss.sum(), z, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError(
            "the loss does not depend on the input through autograd (model detaches, rounds or ends in argmax): there "
            "is no gradient to follow; attack with Square, which takes none, or remove what cuts the graph"
        )
    return gradient


def _check_finite(loss: Tensor) -> None:
    if not loss.isfinite().all():
        bad = (~loss.isfinite()).nonzero().flatten()[:5].tolist()
        raise ValueError(f"the attack's loss is not finite for samples {bad} (of those still attacked)")
