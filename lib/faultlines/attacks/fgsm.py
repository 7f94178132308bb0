"""The fast gradient sign method (Goodfellow et al. 2015)."""

from __future__ import annotations

from faultlines.attacks.gradient_attack import GradientAttack
from faultlines.attacks.losses import Loss
from faultlines.attacks.norms import Norm
from faultlines.attacks.steps import FixedStep


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
