"""Noise of the attack's size: what a map loses to no attack at all."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_count
from faultlines.attacks.explanation.attack import ExplanationAttack
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import ChangedExplanation
from faultlines.attacks.explanation.observation import Explain
from faultlines.attacks.loop import AttackResult, Worst
from faultlines.attacks.norms import Norm


class ExplanationNoise(ExplanationAttack):
    r"""Random perturbations of length `eps`, the baseline of every attack on explanations (Kamath et al. 2024).

    A Gaussian direction is stretched to the sphere: random signs times `eps` in the maximum norm, a uniform direction
    of length `eps` in the Euclidean one; then the pixel box cuts it. Rank measures of a map fall under noise alone,
    so that an attack's score says something only beside this one. With `draws` as many as the attack's steps the attack
    has looked at one point more, that after its last step.

    Args:
        explain: Maps model, samples and classes to maps, as for the attack.
        criterion: What the score measures, as for the attack.
        eps: Length of the perturbation in pixels (0 to 1); 0 returns the input.
        norm: `"linf"`, `"l2"` or a `Norm`.
        draws: Perturbations tried; the one of lowest score counts.
        reject: Whether only those count whose prediction is that of the clean sample.

    Raises:
        ValueError: If a value is out of range or a name unknown.
    """

    climbs: ClassVar[bool] = False

    def __init__(
        self,
        explain: Explain,
        criterion: str | Criterion,
        *,
        eps: float,
        norm: str | Norm = "linf",
        draws: int = 1,
        reject: bool = True,
    ) -> None:
        super().__init__(explain, criterion, eps=eps, norm=norm, reject=reject)
        self.draws = check_count(draws, "draws")

    def search(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
        """Look at random points of the sphere."""
        worst, everyone = Worst(ball.centre), torch.arange(len(ball.centre), device=ball.centre.device)
        for _ in range(self.draws if ball.eps else 0):
            z = ball.project(ball.centre + ball.eps * self._direction(ball.centre, generator))
            with torch.no_grad():
                worst.visit(everyone, z, *objective(z, everyone))
        return worst.result()

    def _direction(self, like: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
        return self.norm.steepest(noise).to(like.device)
