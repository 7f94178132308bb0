"""The momentum iterative method (Dong et al. 2018) and its step rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Unpack

from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_eps
from faultlines.attacks.gradient_attack import WalkOptions
from faultlines.attacks.norms import Norm
from faultlines.attacks.pgd import PGD


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
        self.memory = z.new_zeros(z.shape)

    def keep(self, index: Tensor) -> None:
        """Keep the memory of these samples."""
        self.memory = self.memory[index]

    def propose(self, step: int, ball: Ball, z: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Take a step along the accumulated gradient."""
        del step, loss
        size = gradient.flatten(1).abs().sum(dim=1).reshape(-1, *[1] * (gradient.ndim - 1))
        unit = gradient / size.where(size > 0, size.new_ones(()))
        self.memory = self.decay * self.memory + unit
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
        self.decay = check_eps(decay, "decay")

    def step_rule(self) -> MomentumStep:
        """Return a rule without memory yet."""
        return MomentumStep(self.step_size, self.decay)
