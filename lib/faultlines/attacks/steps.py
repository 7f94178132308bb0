"""Step rules: where the loop goes next, given the gradients so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from faultlines.attacks.ball import Ball


class StepRule(Protocol):
    """A plug of the loop. A rule with memory (momentum, per-sample step sizes) keeps it between calls."""

    def start(self, z: Float[Tensor, batch * dims]) -> None:
        """Forget what was before: a walk begins at `z`."""
        ...

    def keep(self, index: Tensor) -> None:
        """Keep the memory of these samples of the batch only; the others have been dropped."""
        ...

    def propose(
        self,
        step: int,
        ball: Ball,
        z: Float[Tensor, batch * dims],
        gradient: Float[Tensor, batch * dims],
        loss: Float[Tensor, " batch"],
    ) -> Float[Tensor, batch * dims]:
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

    def propose(self, step: int, ball: Ball, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Take the step."""
        del step, loss
        return z.add(ball.norm.steepest(gradient), alpha=self.step_size)
