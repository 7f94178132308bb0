"""What the attacks on explanations share: checks, the constraint on the prediction, and the account of the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_call, check_eps, or_seeded
from faultlines.attacks.explanation.correlation import Cosine, Spearman
from faultlines.attacks.explanation.criteria import Criterion, MassCentre
from faultlines.attacks.explanation.objective import ChangedExplanation
from faultlines.attacks.explanation.observation import Explain, observe
from faultlines.attacks.explanation.result import ExplanationResult
from faultlines.attacks.explanation.surrogate import Model, check_beta
from faultlines.attacks.gradient_attack import prepared
from faultlines.attacks.loop import AttackResult
from faultlines.attacks.norms import Norm, as_norm

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion for criterion in (Cosine(), Spearman(), MassCentre())
}


class ExplanationAttack:
    """An attack on explanations inside a ball; subclasses give the search and say whether it climbs a gradient.

    Args:
        explain: Maps model, samples and the classes explained to maps `[batch, height, width]`. It must be
            differentiable with respect to the samples and deterministic (SmoothGrad with fixed noise, say):
            `partial(attribute, method="gradient", create_graph=True)` of `faultlines.estimators`.
        criterion: `TopK(k)`, `TargetMap(maps)`, `"cosine"`, `"spearman"`, `"mass-centre"`, or another `Criterion`.
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
        if not callable(explain):
            raise ValueError(f"explain={explain!r} must be a function of (model, x, y)")
        self.explain = explain
        self.criterion = as_criterion(criterion)
        self.eps = check_eps(eps)
        self.norm = as_norm(norm)
        self.reject = reject
        self.penalty = check_eps(penalty, "penalty")
        self.surrogate_beta = None if surrogate_beta is None else check_beta(surrogate_beta)

    def search(self, objective: ChangedExplanation, ball: Ball, generator: torch.Generator) -> AttackResult:
        """Return the worst point visited of each sample."""
        raise NotImplementedError(f"{type(self).__name__} gives no search")

    def __call__(
        self,
        model: Model,
        x: Float[Tensor, batch * dims],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> ExplanationResult:
        """Attack the explanations of a batch.

        Neither the model (mode, `requires_grad`, gradients) nor `x` and `y` are changed.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`; normalisation is its own.
            x: Clean samples in [0, 1].
            y: The classes whose logits are explained, at the clean samples and at all others. The prediction that
                has to stay is the model's own at the clean sample, which may be another class.
            generator: Source of random points, which may live on another device than `x`. None takes a fresh one
                seeded with 0, so that a call repeats.

        Returns:
            The point of lowest score of each sample, with its maps.

        Raises:
            ValueError: If samples, labels, logits or maps are not as stated; if the map has no slope that the attack
                could follow, as that of a ReLU network without a surrogate, or runs a kernel without a second
                derivative, as fused attention.
        """
        check_call(model, x, y)
        with prepared(model, x) as clean, named_second_derivative():
            objective = self.objective(model, clean, y.clone() if y.is_inference() else y)
            found = self.search(objective, Ball(clean, self.eps, self.norm), or_seeded(generator))
            return self._account(objective, found)

    def objective(self, model: Model, x: Tensor, y: Tensor) -> ChangedExplanation:
        """Return what to raise."""
        return ChangedExplanation(
            model,
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
            logits, moved = observe(objective.model, self.explain, found.x_adv, objective.y)
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

    def __repr__(self) -> str:
        kept = ", ".join(
            f"{name}={getattr(value, 'name', getattr(value, '__name__', value))}"
            for name, value in vars(self).items()
        )
        return f"{type(self).__name__}({kept})"


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
