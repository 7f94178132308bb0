"""Auto-PGD (Croce & Hein 2020) on cross-entropy, on the difference of logits ratio and on its targeted form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from faultlines.attacks.attack import Victim, check_count
from faultlines.attacks.loop import Region
from faultlines.attacks.losses import (
    LOSSES,
    Loss,
    Misclassification,
    likeliest_others,
    margin,
    targeted_dlr,
    together,
)
from faultlines.attacks.norms import Norm
from faultlines.attacks.pgd import GradientAttack
from faultlines.attacks.results import AttackResult, Worst

TARGETED = "targeted_dlr"


class APGD(GradientAttack):
    r"""Projected gradient with momentum and no step size to tune (arXiv 2003.01690, alg. 1).

    `loss="targeted_dlr"` walks once (each restart) towards each of the `target_classes` likeliest other classes; any
    wrong prediction counts as success. One restart, the default as in AutoAttack, leaves .7 to 3.4 points more samples
    unfooled than five, which come within half a point of the authors' package.

    Args:
        eps: Radius of the ball in pixels (0 to 1); 0 only checks the clean samples.
        steps: Gradient steps of each walk.
        norm: `"linf"`, `"l2"` or a `Norm`.
        loss: `"cross_entropy"`, `"dlr"`, `"targeted_dlr"`, `"margin"` or a function of `(logits, y)`.
        target_classes: How many classes the targeted form tries.
        random_start: Whether each walk begins at a random point of the ball.
        restarts: Number of walks; the worst point of all is kept.
        early_stop: Whether a sample is left alone once fooled.
        batch_size: The targeted form tries several targets at once where samples times targets stay below it.

    Raises:
        ValueError: If a value is out of range or a name unknown.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 4, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0], [0.0, -1.0]]))
        >>> x, y = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
        >>> APGD(eps=0.1, steps=20, loss="targeted_dlr")(model, x, y).success
        tensor([True])
    """

    def __init__(
        self,
        *,
        eps: float,
        steps: int = 100,
        norm: str | Norm = "linf",
        loss: str | Loss = "cross_entropy",
        target_classes: int = 9,
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = False,
        batch_size: int = 256,
    ) -> None:
        self.towards = isinstance(loss, str) and loss == TARGETED
        if isinstance(loss, str) and not self.towards and loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is not one of {sorted([*LOSSES, TARGETED])}, nor a function")
        super().__init__(
            eps=eps,
            norm=norm,
            loss="dlr" if self.towards else loss,
            steps=steps,
            random_start=random_start,
            restarts=restarts,
            early_stop=early_stop,
        )
        self.target_classes = check_count(target_classes, "target_classes")
        self.batch_size = check_count(batch_size, "batch_size")

    def step_rule(self) -> AutoStep:
        """Return a rule without memory yet."""
        return AutoStep(self.steps)

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> AttackResult:
        """Walk once, or towards each target."""
        return (self._search_targets if self.towards else super().search)(victim, x, y, generator)

    def _search_targets(
        self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> AttackResult:
        with torch.no_grad():
            logits = victim(x)
        targets = likeliest_others(logits, y, self.target_classes)
        everyone = torch.arange(len(x), device=x.device)
        worst = Worst(x)
        worst.visit(everyone, x, targeted_dlr(logits, y, targets[:, 0]), logits.argmax(dim=1) != y)
        done = targets.shape[1] if self.eps == 0 else 0
        while done < targets.shape[1]:
            active = everyone[~worst.success] if self.early_stop else everyone
            if not len(active):
                break
            group = targets[active, done : done + together(done, len(active), self.batch_size)].T
            done += len(group)
            copies = active.repeat(len(group))
            objective = TowardsClass(victim, y[copies], group.flatten())
            found = self.walk(victim, objective, x[copies], generator)
            for part in torch.arange(len(copies), device=x.device).chunk(len(group)):
                worst.add(active, found.at(part))
        return worst.result()


class TowardsClass(Misclassification):
    """Raise the targeted difference of logits ratio; reached wherever the prediction is wrong.

    Args:
        model: Maps `[batch, *]` to logits `[batch, classes]`.
        y: The true classes.
        target: The classes to move towards.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        y: Int64[Tensor, " batch"],
        target: Int64[Tensor, " batch"],
    ) -> None:
        super().__init__(model, y, margin)
        self.target = target

    def value(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return the loss towards each sample's own target."""
        return targeted_dlr(logits, self.y[index], self.target[index])


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

    def propose(self, step: int, ball: Region, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
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

    def _first(self, ball: Region, z: Tensor, gradient: Tensor, loss: Tensor) -> _Memory:
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
