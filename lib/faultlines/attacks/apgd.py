"""Auto-PGD (Croce & Hein 2020) on cross-entropy, on the difference of logits ratio and on its targeted form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.apgd_step import AutoStep
from faultlines.attacks.checks import check_call, check_count, or_seeded
from faultlines.attacks.gradient_attack import GradientAttack, prepared
from faultlines.attacks.loop import AttackResult, Worst
from faultlines.attacks.losses import LOSSES, Loss, targeted_dlr
from faultlines.attacks.misclassification import Misclassification
from faultlines.attacks.norms import Norm
from faultlines.attacks.targets import checked_logits, likeliest_others, together

TARGETED = "targeted_dlr"


class APGD(GradientAttack):
    r"""Projected gradient with momentum and no step size to tune (arXiv 2003.01690, alg. 1).

    `loss="targeted_dlr"` walks once (each restart) towards each of the `target_classes` likeliest other classes; any
    wrong prediction counts as success.

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

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Float[Tensor, batch * dims],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        """Attack a batch; see `GradientAttack.__call__`.

        Raises:
            ValueError: If samples, labels or logits are not as stated, or there are too few classes for the loss.
        """
        if not self.towards:
            return super().__call__(model, x, y, generator=generator)
        generator = or_seeded(generator)
        check_call(model, x, y)
        with prepared(model, x) as clean:
            logits = checked_logits(model, clean, y)
            targets = likeliest_others(logits, y, self.target_classes)
            everyone = torch.arange(len(x), device=x.device)
            worst = Worst(clean)
            worst.visit(everyone, clean, targeted_dlr(logits, y, targets[:, 0]), logits.argmax(dim=1) != y)
            done = targets.shape[1] if self.eps == 0 else 0
            while done < targets.shape[1]:
                active = everyone[~worst.success] if self.early_stop else everyone
                if not len(active):
                    break
                group = targets[active, done : done + together(done, len(active), self.batch_size)].T
                done += len(group)
                copies = active.repeat(len(group))
                objective = TowardsClass(model, y[copies], group.flatten())
                found = self.walk(objective, clean[copies], generator)
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
        super().__init__(model, y, targeted_dlr)
        self.target = target

    def value(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return the loss towards each sample's own target."""
        return targeted_dlr(logits, self.y[index], self.target[index])
