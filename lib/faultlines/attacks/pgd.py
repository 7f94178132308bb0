"""Attacks that walk up a gradient inside a ball: the sign method, projected gradient descent, momentum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypedDict, Unpack

import torch
from torch import Tensor

from faultlines.attacks.attack import (
    Attack,
    Victim,
    check_count,
    check_number,
    check_restarts,
    check_step_size,
)
from faultlines.attacks.loop import FixedStep, Objective, Region, StepRule, ascend
from faultlines.attacks.losses import Loss, Misclassification, as_loss, margin
from faultlines.attacks.norms import Ball, Norm
from faultlines.attacks.results import AttackResult


class WalkOptions(TypedDict, total=False):
    """What attacks hand on to `GradientAttack` as it is; its docstring says what each means."""

    loss: str | Loss
    restarts: int
    targeted: bool
    early_stop: bool


class GradientAttack(Attack[AttackResult]):
    """An attack that walks up a gradient inside a ball; subclasses give the step rule.

    A subclass may override `objective` (what to raise) and `region` (where), and must override `step_rule`
    (how to step); the loop is `faultlines.attacks.loop.ascend`.

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
        super().__init__(eps=eps, norm=norm)
        self.loss = as_loss(loss)
        self.steps = check_count(steps, "steps")
        self.random_start = random_start
        self.restarts = check_restarts(restarts, random_start)
        self.targeted = targeted
        self.early_stop = early_stop

    def step_rule(self) -> StepRule:
        """Return a fresh step rule for one call."""
        raise NotImplementedError(f"{type(self).__name__} gives no step rule")

    def objective(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Objective:
        """Return what to raise; by default the loss of misclassification."""
        del x
        return Misclassification(model, y, self.loss, self.targeted)

    def region(self, objective: Objective, x: Tensor, generator: torch.Generator) -> Region:
        """Return where to walk around the clean samples `x`; by default the norm ball."""
        del objective, generator
        return Ball(x, self.eps, self.norm)

    @property
    def remedy(self) -> str:
        """What to do where gradients vanish."""
        if self.loss is margin:
            return super().remedy
        return "logits far apart saturate this loss: take loss='margin', which does not"

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> AttackResult:
        """Walk from the clean samples."""
        return self.walk(victim, self.objective(victim, x, y), x, generator)

    def walk(
        self, victim: Victim, objective: Objective, x: Tensor, generator: torch.Generator
    ) -> AttackResult:
        """Raise an objective around clean samples that have been checked."""
        return ascend(
            objective,
            self.region(objective, x, generator),
            self.step_rule(),
            steps=self.steps,
            restarts=self.restarts,
            generator=generator if self.random_start else None,
            early_stop=self.early_stop,
            note=victim.note_slope,
        )


class FGSM(GradientAttack):
    r"""One step of full length, $x + \epsilon\, \mathrm{sign}\, \nabla_x L(x, y)$ (arXiv 1412.6572, sec. 4).

    With another norm the step is that norm's steepest direction.

    Args:
        eps: Radius of the ball in pixels (0 to 1).
        norm: `"linf"`, `"l2"` or a `Norm`.
        loss: `"cross_entropy"`, `"margin"`, `"dlr"` or a function of `(logits, y)`.
        targeted: Whether `y` names the class wanted instead of the true one.

    Raises:
        ValueError: If `eps` is negative or a name is unknown.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        >>> x, y = torch.tensor([[0.6, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> result = FGSM(eps=0.1)(model, x, y)
        >>> result.x_adv
        tensor([[0.5000, 0.6000],
                [0.8000, 0.2000]])
        >>> result.success
        tensor([ True, False])
    """

    def __init__(
        self,
        *,
        eps: float,
        norm: str | Norm = "linf",
        loss: str | Loss = "cross_entropy",
        targeted: bool = False,
    ) -> None:
        super().__init__(eps=eps, norm=norm, loss=loss, steps=1, random_start=False, targeted=targeted)

    def step_rule(self) -> FixedStep:
        """Return the full step."""
        return FixedStep(self.eps)


class PGD(GradientAttack):
    r"""Iterated steepest ascent with projection (arXiv 1706.06083, section 2.1).

    $$x^{t+1} = \Pi_{B_\epsilon(x) \cap [0, 1]^n}\bigl(x^t + \alpha \arg\max_{\|v\| \le 1}
    \langle v, \nabla L(x^t, y) \rangle\bigr).$$

    Unlike foolbox and captum it keeps the worst point visited and not the last.

    Args:
        eps: Radius of the ball in pixels (0 to 1); 0 only checks the clean samples.
        steps: Gradient steps of each restart.
        step_size: $\alpha$ in pixels; by default `2.5 * eps / steps`, which can cross the ball from any start
            and still move along its border (Madry et al. 2018).
        norm: `"linf"`, `"l2"` or a `Norm`.
        loss: `"cross_entropy"`, `"margin"`, `"dlr"` or a function of `(logits, y)`.
        random_start: Whether each restart begins at a random point of the ball.
        restarts: Number of walks; the worst point of all is kept.
        targeted: Whether `y` names the class wanted instead of the true one.
        early_stop: Whether a sample is left alone once fooled: cheaper where only success is asked for, and
            `x_adv` is then the first point that fooled the model.

    Raises:
        ValueError: If a value is out of range, or restarts without a random start are asked for.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).eval()
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> result = PGD(eps=8 / 255, steps=5)(model, x, y, generator=torch.Generator().manual_seed(0))
        >>> bool((result.x_adv - x).abs().max() <= 8 / 255 + 1e-6), result.success.shape
        (True, torch.Size([4]))
    """

    reach: ClassVar[float] = 2.5
    """How far all steps of the default size go together, in units of `eps`."""

    def __init__(
        self,
        *,
        eps: float,
        steps: int = 10,
        step_size: float | None = None,
        norm: str | Norm = "linf",
        random_start: bool = True,
        **options: Unpack[WalkOptions],
    ) -> None:
        super().__init__(eps=eps, norm=norm, steps=steps, random_start=random_start, **options)
        self.step_size = check_step_size(step_size, self.reach * self.eps / self.steps)

    def step_rule(self) -> StepRule:
        """Return the fixed step."""
        return FixedStep(self.step_size)


@dataclass
class MomentumStep:
    r"""$g \leftarrow \mu g + \nabla L / \lVert \nabla L \rVert_1$, then the steepest direction of $g$.

    Attributes:
        step_size: Length of a step, in the units of `eps`.
        decay: $\mu$.
    """

    step_size: float
    decay: float
    memory: Tensor | None = field(default=None, repr=False)

    def start(self, z: Tensor) -> None:
        """Begin without memory."""
        del z
        self.memory = None

    def keep(self, index: Tensor) -> None:
        """Keep the memory of these samples."""
        self.memory = None if self.memory is None else self.memory[index]

    def propose(self, step: int, ball: Region, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Take a step along the accumulated gradient."""
        del step, loss
        size = gradient.flatten(1).abs().sum(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
        unit = gradient / size.where(size > 0, size.new_ones(()))
        before = z.new_zeros(z.shape) if self.memory is None else self.memory
        self.memory = self.decay * before + unit
        return z.add(ball.norm.steepest(self.memory), alpha=self.step_size)


class MIM(PGD):
    r"""Projected gradient with momentum, from the clean sample (arXiv 1710.06081, alg. 1).

    Args:
        eps: Radius of the ball in pixels (0 to 1).
        steps: Gradient steps.
        step_size: Length of a step; `eps / steps` by default, as in the paper.
        decay: Momentum $\mu$.
        norm: `"linf"`, `"l2"` or a `Norm`.
        loss: `"cross_entropy"`, `"margin"`, `"dlr"` or a function of `(logits, y)`.
        targeted: Whether `y` names the class wanted instead of the true one.
        early_stop: Whether a sample is left alone once fooled.

    Raises:
        ValueError: If a value is out of range or a name unknown.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        >>> MIM(eps=0.1, steps=4)(model, torch.tensor([[0.6, 0.5]]), torch.tensor([0])).x_adv
        tensor([[0.5000, 0.6000]])
    """

    reach: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        eps: float,
        steps: int = 10,
        step_size: float | None = None,
        decay: float = 1.0,
        norm: str | Norm = "linf",
        **options: Unpack[WalkOptions],
    ) -> None:
        super().__init__(eps=eps, steps=steps, step_size=step_size, norm=norm, random_start=False, **options)
        self.decay = check_number(decay, "decay")

    def step_rule(self) -> MomentumStep:
        """Return a rule without memory yet."""
        return MomentumStep(self.step_size, self.decay)
