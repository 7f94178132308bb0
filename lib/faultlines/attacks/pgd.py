"""Projected gradient descent (Madry et al. 2018)."""

from __future__ import annotations

from typing import ClassVar, Unpack

from faultlines.attacks.checks import check_eps
from faultlines.attacks.gradient_attack import GradientAttack, WalkOptions
from faultlines.attacks.norms import Norm
from faultlines.attacks.steps import FixedStep, StepRule


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
        default = self.reach * self.eps / self.steps
        self.step_size = default if step_size is None else check_eps(step_size, "step_size", zero=False)

    def step_rule(self) -> StepRule:
        """Return the fixed step."""
        return FixedStep(self.step_size)
