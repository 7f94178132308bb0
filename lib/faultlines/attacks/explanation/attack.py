"""Attacks on explanations: the search and the noise beside it, the constraint on the prediction, and the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from faultlines.attacks.attack import (
    Attack,
    Victim,
    check_count,
    check_number,
    check_restarts,
    check_step_size,
)
from faultlines.attacks.explanation.criteria import Cosine, Criterion, MassCentre, Spearman
from faultlines.attacks.explanation.objective import ChangedExplanation, Explain
from faultlines.attacks.explanation.surrogate import check_beta
from faultlines.attacks.loop import FixedStep, ascend
from faultlines.attacks.norms import Ball, Norm
from faultlines.attacks.results import AttackResult, Worst
from faultlines.estimators.forward import original, uncompiled

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion for criterion in (Cosine(), Spearman(), MassCentre())
}


@dataclass(frozen=True)
class ExplanationResult:
    """What an attack on explanations found, sample by sample; everything is measured on the model as it is.

    Attributes:
        x_adv: The point visited of lowest score, inside ball and box; with rejection among those whose prediction is
            that of the clean sample. The clean sample itself where no point visited has a lower score.
        score: The criterion's likeness of the maps at `x_adv` and at the clean sample; 1 where nothing has changed.
        success: Whether the score is below the clean one and the prediction at `x_adv` is that of the clean sample.
        kept: Whether the prediction at `x_adv` is that of the clean sample; with rejection always.
        kept_share: The share of the perturbed points visited whose prediction was that of the clean sample; NaN
            where none was visited.
        explanation: The maps at `x_adv`.
        clean_explanation: The maps at the clean samples; any other likeness can be measured from the two.
        surrogate: What stood in for the model in the attack's gradient, or None where the model itself did.
    """

    x_adv: Float[Tensor, "batch ..."]
    score: Float[Tensor, " batch"]
    success: Bool[Tensor, " batch"]
    kept: Bool[Tensor, " batch"]
    kept_share: Float[Tensor, " batch"]
    explanation: Float[Tensor, "batch ..."]
    clean_explanation: Float[Tensor, "batch ..."]
    surrogate: str | None


class ExplanationAttack(Attack[ExplanationResult]):
    """An attack on explanations inside a ball; subclasses give the search and say whether it climbs a gradient.

    Args:
        explain: Maps model, samples and the classes explained to maps `[batch, height, width]`. It must be
            differentiable with respect to the samples and deterministic (SmoothGrad with fixed noise, say):
            `partial(attribute, method="gradient", create_graph=True)` of `faultlines.estimators`.
        criterion: `TopK(k)`, `"cosine"`, `"spearman"`, `"mass-centre"`, or another `Criterion`.
        eps: Radius of the ball in pixels (0 to 1); 0 returns the input.
        norm: `"linf"`, `"l2"` or a `Norm`.
        reject: Whether only points count whose prediction is that of the clean sample.
        penalty: Weight of the squared change of the class probabilities, summed over classes, in what is ascended
            and in the choice of the point; with `reject` or in its place.
        surrogate_beta: Sharpness of the softplus that stands in for ReLU in a climber's gradient; None for none.

    Raises:
        ValueError: If a value is out of range or a name unknown.
    """

    climbs: ClassVar[bool]

    def __init__(
        self,
        explain: Explain,
        criterion: str | Criterion,
        *,
        eps: float,
        norm: str | Norm = "linf",
        reject: bool = True,
        penalty: float = 0.0,
        surrogate_beta: float | None = None,
    ) -> None:
        super().__init__(eps=eps, norm=norm)
        if not callable(explain):
            raise ValueError(f"explain={explain!r} must be a function of (model, x, y)")
        self.explain = explain
        self.criterion = as_criterion(criterion)
        self.reject = reject
        self.penalty = check_number(penalty, "penalty")
        self.surrogate_beta = None if surrogate_beta is None else check_beta(surrogate_beta)

    def worst(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
        """Return the worst point visited of each sample."""
        raise NotImplementedError(f"{type(self).__name__} gives no search")

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> ExplanationResult:
        """Return the points of lowest score with their maps.

        Classes `y` are those whose logits are explained, at the clean samples and at all others. The prediction that
        has to stay is the model's own at the clean sample, which may be another class.

        Raises:
            ValueError: If maps are not as stated; if the map has no slope that the attack could follow, as that of
                a ReLU network without a surrogate, or runs a kernel without a second derivative, as fused
                attention.
        """
        victim.model = original(cast(Any, victim.model))  # compiled code has no second derivative
        with uncompiled(), named_second_derivative():
            objective = self.objective(victim, x, y)
            return self._account(objective, self.worst(objective, Ball(x, self.eps, self.norm), generator))

    def objective(self, victim: Victim, x: Tensor, y: Tensor) -> ChangedExplanation:
        """Return what to raise."""
        return ChangedExplanation(
            victim,
            self.explain,
            self.criterion,
            x,
            y,
            reject=self.reject,
            penalty=self.penalty,
            beta=self.surrogate_beta,
            climbs=self.climbs,
        )

    def _account(self, objective: ChangedExplanation, found: AttackResult) -> ExplanationResult:
        """Look once more at what was found, and take the clean sample where it is no better."""
        everyone = torch.arange(len(objective.x), device=objective.x.device)
        clean_score = objective.criterion.score(objective.clean, objective.reference)
        better = found.loss > -clean_score
        maps, kept = objective.clean, torch.ones_like(better)
        if better.any():
            logits, moved = objective.observe(objective.victim.model, found.x_adv, objective.y)
            stays = objective.kept(logits, everyone)
            # where no point kept the prediction, or a batch of other neighbours rounds a tie of logits the other way
            better = better & stays if self.reject else better
            kept = stays | ~better
            maps = torch.where(_like(better, moved), moved.detach(), objective.clean)
        score = objective.criterion.score(maps, objective.reference)
        return ExplanationResult(
            x_adv=torch.where(_like(better, objective.x), found.x_adv, objective.x),
            score=score,
            success=kept & (score < clean_score),
            kept=kept,
            kept_share=objective.stays / objective.visits,
            explanation=maps,
            clean_explanation=objective.clean,
            surrogate=objective.surrogate,
        )


def as_criterion(criterion: str | Criterion) -> Criterion:
    """Return a criterion by its name, or the criterion itself.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(criterion, str) and all(
        hasattr(criterion, part) for part in ("reference", "loss", "score")
    ):
        return criterion
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise ValueError(
            f"criterion={criterion!r} is not one of {sorted(CRITERIA)}, nor a Criterion such as TopK(k)"
        )
    return CRITERIA[criterion]


@contextmanager
def named_second_derivative() -> Iterator[None]:
    """Turn torch's refusal of a second derivative into an error that says what to do.

    Raises:
        ValueError: If torch has no derivative of a kernel that ran inside.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if "derivative for" not in str(error) or "not implemented" not in str(error):
            raise
        raise ValueError(
            f"model runs a kernel that has no second derivative ({error}); run attention in its explicit form: "
            "fused='never' or 'auto', or torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        ) from error


def _like(mask: Tensor, values: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (values.ndim - 1))


class ExplanationPGD(ExplanationAttack):
    r"""Steepest steps on a criterion of the map, projected to the ball, while the prediction stays.

    Gradient maps are attacked through the model's second derivative. ReLU networks have none: give `surrogate_beta`,
    and the gradient (it alone) is that of the network with $\mathrm{softplus}_\beta$ for ReLU, while scores, maps and
    predictions are the network's own. Networks of GELU or SiLU need none, and none is used where the forward pass
    meets no ReLU. Maps made of attention need its explicit form, which has a second derivative.

    Args:
        explain: Maps model, samples and classes to maps, differentiably; see `ExplanationAttack`.
        criterion: `TopK(k)`, `"cosine"`, `"spearman"`, `"mass-centre"`, or another `Criterion`.
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
        self.step_size = check_step_size(step_size, 2.5 * self.eps / self.steps)
        self.random_start = random_start
        self.restarts = check_restarts(restarts, random_start)

    def worst(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
        """Walk up the criterion."""
        return ascend(
            objective,
            ball,
            FixedStep(self.step_size),
            steps=self.steps,
            restarts=self.restarts,
            generator=generator if self.random_start else None,
        )


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

    def worst(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
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
