r"""The step rule of Auto-PGD: momentum, and a step size that each sample halves at checkpoints of its own accord."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultlines.attacks.ball import Ball

MOMENTUM = 0.75
r"""The share $\alpha$ of the gradient step; the rest repeats the last move."""

PROGRESS = 0.75
r"""The share $\rho$ of steps between checkpoints that must have raised the loss."""


def checkpoints(steps: int) -> list[int]:
    r"""Return the steps $w_j = \lceil p_j N \rceil$ at which step sizes are looked at.

    $p_0 = 0$, $p_1 = 0.22$, $p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)$ (arXiv 2003.01690, sec. 3.2).

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # in hundredths, where every p is whole: no rounding of 0.07 * 100 to 8
    last, p, marks = 0, 22, []
    while p <= 100:
        marks.append(math.ceil(p * steps / 100))
        last, p = p, p + max(p - last - 3, 6)
    return sorted({mark for mark in marks if mark < steps})


@dataclass
class _Memory:
    """What a walk remembers of each sample."""

    step_size: Tensor
    last_point: Tensor
    last_loss: Tensor
    best_point: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    rises: Tensor  # steps since the checkpoint that raised the loss
    best_at_checkpoint: Tensor
    halved: Tensor  # at the last checkpoint

    def at(self, index: Tensor) -> _Memory:
        return _Memory(**{name: value[index] for name, value in vars(self).items()})


@dataclass
class AutoStep:
    r"""Algorithm 1 of Croce & Hein 2020 (arXiv 2003.01690).

    $$z^{k+1} = \Pi\bigl(x^k + \eta^k \arg\max_{\|v\| \le 1} \langle v, \nabla L(x^k) \rangle\bigr), \quad
    x^{k+1} = \Pi\bigl(x^k + \alpha (z^{k+1} - x^k) + (1 - \alpha)(x^k - x^{k-1})\bigr).$$

    The step size begins at $2 \epsilon$. At a checkpoint a sample halves it if the loss rose in fewer than
    $\rho$ of the steps since the last one, or if the step size was not halved there and the best loss has not improved
    since; it then goes on from the best point it knows.

    Attributes:
        steps: Length of the walk, which decides the checkpoints.
    """

    steps: int
    memory: _Memory | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._marks = checkpoints(self.steps)

    def start(self, z: Tensor) -> None:
        """Forget the walk before."""
        del z
        self.memory = None

    def keep(self, index: Tensor) -> None:
        """Keep the memory of these samples."""
        if self.memory is not None:
            self.memory = self.memory.at(index)

    def propose(self, step: int, ball: Ball, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Look back, then take the step with momentum."""
        if self.memory is None:
            self.memory = self._first(ball, z, gradient, loss)
            return z + self.memory.step_size * ball.norm.steepest(gradient)
        memory = self.memory
        _look(memory, z, gradient, loss)
        if step in self._marks:
            since = step - max([mark for mark in self._marks if mark < step], default=0)
            z, gradient = _checkpoint(memory, since, z, gradient)
        ahead = ball.project(z + memory.step_size * ball.norm.steepest(gradient))
        move = z - memory.last_point
        memory.last_point = z
        return z + MOMENTUM * (ahead - z) + (1 - MOMENTUM) * move

    def _first(self, ball: Ball, z: Tensor, gradient: Tensor, loss: Tensor) -> _Memory:
        return _Memory(
            step_size=torch.full_like(loss, 2 * ball.eps).reshape(-1, *[1] * (z.ndim - 1)),
            last_point=z,
            last_loss=loss,
            best_point=z,
            best_gradient=gradient,
            best_loss=loss,
            rises=torch.zeros_like(loss),
            best_at_checkpoint=loss,
            halved=torch.ones_like(loss, dtype=torch.bool),  # the second condition waits for a checkpoint
        )


def _look(memory: _Memory, z: Tensor, gradient: Tensor, loss: Tensor) -> None:
    memory.rises = memory.rises + (loss > memory.last_loss)
    memory.last_loss = loss
    better = loss > memory.best_loss
    shaped = better.reshape(-1, *[1] * (z.ndim - 1))
    memory.best_loss = torch.where(better, loss, memory.best_loss)
    memory.best_point = torch.where(shaped, z, memory.best_point)
    memory.best_gradient = torch.where(shaped, gradient, memory.best_gradient)


def _checkpoint(memory: _Memory, since: int, z: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Halve where the walk stalls; return where each sample goes on, and its gradient there."""
    oscillates = memory.rises < PROGRESS * since
    stands = ~memory.halved & (memory.best_at_checkpoint >= memory.best_loss)
    halve = oscillates | stands
    memory.rises = torch.zeros_like(memory.rises)
    memory.best_at_checkpoint = memory.best_loss
    memory.halved = halve
    shaped = halve.reshape(-1, *[1] * (z.ndim - 1))
    memory.step_size = torch.where(shaped, memory.step_size / 2, memory.step_size)
    return (
        torch.where(shaped, memory.best_point, z),
        torch.where(shaped, memory.best_gradient, gradient),
    )
