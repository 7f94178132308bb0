"""Projected gradient descent on explanations (Ghorbani et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_count, check_eps
from faultlines.attacks.explanation.attack import ExplanationAttack
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import ChangedExplanation
from faultlines.attacks.explanation.observation import Explain
from faultlines.attacks.loop import AttackResult, ascend
from faultlines.attacks.norms import Norm
from faultlines.attacks.steps import FixedStep


class ExplanationPGD(ExplanationAttack):
    r"""Steepest steps on a criterion of the map, projected to the ball, while the prediction stays.

    Gradient maps are attacked through the model's second derivative. ReLU networks have none: give `surrogate_beta`,
    and the gradient (it alone) is that of the network with $\mathrm{softplus}_\beta$ for ReLU, while scores, maps and
    predictions are the network's own. Networks of GELU or SiLU need none, and none is used where the forward pass
    meets no ReLU. Maps made of attention need its explicit form, which has a second derivative.

    Args:
        explain: Maps model, samples and classes to maps, differentiably; see `ExplanationAttack`.
        criterion: `TopK(k)`, `TargetMap(maps)`, `"cosine"`, `"spearman"`, `"mass-centre"`, or another `Criterion`.
        eps: Radius of the ball in pixels (0 to 1); 0 returns the input.
        steps: Gradient steps of each restart.
        step_size: Length of a step in the norm; by default `2.5 * eps / steps`.
        norm: `"linf"`, `"l2"` or a `Norm`.
        random_start: Whether each restart begins at a random point of the ball. At the clean sample itself the
            gradient of the cosine and of the shift of the centre is zero.
        restarts: Number of walks; the point of lowest score of all is kept.
        reject: Whether only points count whose prediction is that of the clean sample.
        penalty: Weight of the squared change of the class probabilities.
        surrogate_beta: Sharpness of the softplus; None for no surrogate.

    Raises:
        ValueError: If a value is out of range or a name unknown.

    Example:
        >>> from functools import partial
        >>> from faultlines.attacks.explanation import TopK
        >>> from faultlines.estimators.attribution import attribute
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).eval()
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> explain = partial(attribute, method="gradient", create_graph=True)
        >>> result = ExplanationPGD(explain, TopK(10), eps=8 / 255, steps=5)(model, x, y)
        >>> bool((model(result.x_adv).argmax(1) == model(x).argmax(1)).all()), bool((result.score <= 1).all())
        (True, True)
    """

    climbs: ClassVar[bool] = True

    def __init__(
        self,
        explain: Explain,
        criterion: str | Criterion,
        *,
        eps: float,
        steps: int = 40,
        step_size: float | None = None,
        norm: str | Norm = "linf",
        random_start: bool = True,
        restarts: int = 1,
        reject: bool = True,
        penalty: float = 0.0,
        surrogate_beta: float | None = None,
    ) -> None:
        super().__init__(
            explain,
            criterion,
            eps=eps,
            norm=norm,
            reject=reject,
            penalty=penalty,
            surrogate_beta=surrogate_beta,
        )
        self.steps = check_count(steps, "steps")
        default = 2.5 * self.eps / self.steps
        self.step_size = default if step_size is None else check_eps(step_size, "step_size", zero=False)
        self.random_start = random_start
        self.restarts = check_count(restarts, "restarts")
        if self.restarts > 1 and not random_start:
            raise ValueError(
                f"restarts={restarts} would repeat one walk; it must be 1 where random_start=False"
            )

    def search(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
        """Walk up the criterion."""
        return ascend(
            objective,
            ball,
            FixedStep(self.step_size),
            steps=self.steps,
            restarts=self.restarts,
            generator=generator if self.random_start else None,
        )
