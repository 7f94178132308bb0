"""What the gradient attacks on predictions share: checks, plugs and the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_call, check_count, check_eps, or_seeded
from faultlines.attacks.loop import AttackResult, Objective, ascend
from faultlines.attacks.losses import Loss, as_loss
from faultlines.attacks.misclassification import Misclassification
from faultlines.attacks.norms import Norm, as_norm
from faultlines.attacks.steps import StepRule
from faultlines.models.inference import frozen


class WalkOptions(TypedDict, total=False):
    """What attacks hand on to `GradientAttack` as it is; its docstring says what each means."""

    loss: str | Loss
    restarts: int
    targeted: bool
    early_stop: bool


class GradientAttack:
    """An attack that walks up a gradient inside a ball; subclasses give the step rule.

    A subclass may override `objective` (what to raise) and `region` (where), and must override `step_rule`
    (how to step); the loop is `faultlines.attacks.loop.ascend`. Hyper-parameters are attributes and
    do not change by a call.

    Args:
        eps: Radius of the ball in pixels (0 to 1); 0 only checks the clean samples.
        norm: `"linf"`, `"l2"` or a `Norm`.
        loss: `"cross_entropy"`, `"margin"`, `"dlr"` or a function of `(logits, y)`.
        steps: Gradient steps of each restart.
        random_start: Whether each restart begins at a random point of the ball.
        restarts: Number of walks; the worst point of all is kept.
        targeted: Whether `y` names the class wanted instead of the true one.
        early_stop: Whether a sample is left alone once fooled. Cheaper where only success is asked for.

    Raises:
        ValueError: If a value is out of range, or restarts without a random start are asked for.
    """

    def __init__(
        self,
        *,
        eps: float,
        norm: str | Norm = "linf",
        loss: str | Loss = "cross_entropy",
        steps: int,
        random_start: bool,
        restarts: int = 1,
        targeted: bool = False,
        early_stop: bool = False,
    ) -> None:
        self.eps = check_eps(eps)
        self.norm = as_norm(norm)
        self.loss = as_loss(loss)
        self.steps = check_count(steps, "steps")
        self.random_start = random_start
        self.restarts = check_count(restarts, "restarts")
        self.targeted = targeted
        self.early_stop = early_stop
        if self.restarts > 1 and not random_start:
            raise ValueError(
                f"restarts={restarts} would repeat one walk; it must be 1 where random_start=False"
            )

    def step_rule(self) -> StepRule:
        """Return a fresh step rule for one call."""
        raise NotImplementedError(f"{type(self).__name__} gives no step rule")

    def objective(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Objective:
        """Return what to raise; by default the loss of misclassification."""
        del x
        return Misclassification(model, y, self.loss, self.targeted)

    def region(self, objective: Objective, x: Tensor, generator: torch.Generator) -> Ball:
        """Return where to walk around the clean samples `x`; by default the norm ball."""
        del objective, generator
        return Ball(x, self.eps, self.norm)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Float[Tensor, batch * dims],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        """Attack a batch.

        Neither the model (mode, `requires_grad`, gradients) nor `x` and `y` are changed.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`; normalisation is its own.
            x: Clean samples in [0, 1].
            y: True classes, or the classes wanted for a targeted attack.
            generator: Source of the random starts, which may live on another device than `x`. None takes a
                fresh one seeded with 0, so that a call repeats.

        Returns:
            The worst point visited and the success of each sample. A sample is robust only if the model is
            right at the clean point and at every point visited.

        Raises:
            ValueError: If samples, labels or logits are not as stated.
        """
        check_call(model, x, y)
        with prepared(model, x) as clean:
            return self.walk(self.objective(model, clean, y), clean, generator)

    def walk(self, objective: Objective, x: Tensor, generator: torch.Generator | None) -> AttackResult:
        """Raise an objective around clean samples that have been checked."""
        generator = or_seeded(generator)
        return ascend(
            objective,
            self.region(objective, x, generator),
            self.step_rule(),
            steps=self.steps,
            restarts=self.restarts,
            generator=generator if self.random_start else None,
            early_stop=self.early_stop,
        )

    def __repr__(self) -> str:
        kept = ", ".join(
            f"{name}={getattr(value, 'name', getattr(value, '__name__', value))}"
            for name, value in vars(self).items()
        )
        return f"{type(self).__name__}({kept})"


@contextmanager
def prepared(model: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[Tensor]:
    """Lend the samples as a tensor that can be differentiated, with gradients on and the model's weights frozen."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        yield x.detach().clone() if x.is_inference() else x.detach()
