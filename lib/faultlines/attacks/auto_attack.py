"""The standard ensemble of AutoAttack (Croce & Hein 2020), resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.apgd import APGD
from faultlines.attacks.auto_attack_state import State, fingerprint
from faultlines.attacks.checks import check_call, check_count, check_eps, or_seeded
from faultlines.attacks.fab import FAB
from faultlines.attacks.loop import AttackResult
from faultlines.attacks.losses import margin
from faultlines.attacks.norms import L2, Linf, Norm, as_norm
from faultlines.attacks.square import Square
from faultlines.attacks.targets import check_logits

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
NAMES = (*STANDARD, "apgd-dlr")
LEAST_CLASSES = {"apgd-t": 4, "apgd-dlr": 3}


@dataclass(frozen=True)
class EnsembleResult(AttackResult):
    """What an ensemble found; see `AttackResult`.

    Attributes:
        found_by: Which member fooled the model first, as its place in the ensemble from 1; 0 where the clean
            sample is misclassified, -1 where nothing did.
    """

    found_by: Int64[Tensor, " batch"]


class AutoAttack:
    """Runs attacks in turn, each on the samples that survived those before (arXiv 2003.01690, sec. 6).

    The standard ensemble is APGD on cross-entropy, APGD on the targeted DLR loss, targeted FAB and Square; with it the
    robust accuracy is a number that others report too. Every member leaves a sample alone once it is fooled.

    Args:
        eps: Radius of the ball in pixels (0 to 1).
        norm: `"linf"` or `"l2"`.
        attacks: Members, in order: `"apgd-ce"`, `"apgd-dlr"`, `"apgd-t"`, `"fab-t"`, `"square"`.
        steps: Steps of each walk of the gradient attacks.
        target_classes: Classes that the targeted attacks try.
        queries: Budget of Square.
        batch_size: Samples attacked at once; fewer lose less work when stopped.

    Raises:
        ValueError: If a value is out of range or a name unknown.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).eval()
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> result = AutoAttack(eps=0.01, steps=4, queries=10)(model, x, y)
        >>> robust = (~result.success).float().mean()
        >>> bool(((result.found_by == -1) == ~result.success).all())
        True
    """

    def __init__(
        self,
        *,
        eps: float,
        norm: str | Norm = "linf",
        attacks: Sequence[str] = STANDARD,
        steps: int = 100,
        target_classes: int = 9,
        queries: int = 5000,
        batch_size: int = 250,
    ) -> None:
        self.eps = check_eps(eps)
        self.norm = as_norm(norm)
        if not isinstance(self.norm, (Linf, L2)):
            raise ValueError(f"norm={norm!r} must be 'linf' or 'l2'")
        unknown = [name for name in attacks if name not in NAMES]
        if isinstance(attacks, str) or unknown or not attacks:
            raise ValueError(f"attacks={attacks!r} must be a sequence of names of {list(NAMES)}")
        self.attacks = tuple(attacks)
        self.steps = check_count(steps, "steps")
        self.target_classes = check_count(target_classes, "target_classes")
        self.queries = check_count(queries, "queries")
        self.batch_size = check_count(batch_size, "batch_size")

    def member(self, name: str) -> APGD | FAB | Square:
        """Return one attack of the ensemble, as it is run."""
        shared = {"eps": self.eps, "norm": self.norm}
        walk = {**shared, "steps": self.steps, "early_stop": True, "batch_size": self.batch_size}
        match name:
            case "apgd-ce":
                return APGD(**walk)
            case "apgd-dlr":
                return APGD(**walk, loss="dlr")
            case "apgd-t":
                return APGD(**walk, loss="targeted_dlr", target_classes=self.target_classes)
            case "fab-t":
                return FAB(**walk, target_classes=self.target_classes)
            case _:
                return Square(**shared, queries=self.queries)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Float[Tensor, batch * dims],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
        state: str | Path | None = None,
    ) -> EnsembleResult:
        """Attack samples, batch after batch.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`.
            x: Clean samples in [0, 1].
            y: True classes.
            generator: Source of all draws (one is taken from it); None takes a fresh one seeded with 0.
            state: A file that keeps what was found after every batch. If it is there, the evaluation goes on
                where it stopped and ends as it would have ended.

        Returns:
            A fooling point for each sample that is not robust, the clean sample for the others; `loss` is the margin
            there.

        Raises:
            ValueError: If samples, labels or logits are not as stated, there are too few classes for a member, or
                the state was made with another model, other samples, settings or seed.
        """
        check_call(model, x, y)
        if x.ndim != 4 and "square" in self.attacks:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; Square takes images [batch, channel, height, width]: "
                "leave it out, AutoAttack(..., attacks=('apgd-ce', 'apgd-t', 'fab-t'))"
            )
        logits = self._logits(model, x)
        check_logits(logits, y)
        self._check_classes(logits.shape[1])
        generator = or_seeded(generator)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        progress = State.fresh(x, logits.argmax(dim=1) != y)
        if state is not None:
            progress.attach(Path(state), fingerprint(model, x, y, {**self._settings(), "seed": seed}))
        for place, name in enumerate(self.attacks):
            self._run(model, x, y, progress, place, self.member(name), seed)
        final = margin(self._logits(model, progress.x_adv), y)
        return EnsembleResult(
            progress.x_adv, progress.found_by >= 0, final, progress.gradients, progress.found_by
        )

    def _run(
        self,
        model: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor,
        progress: State,
        place: int,
        attack: APGD | FAB | Square,
        seed: int,
    ) -> None:
        """Run one member on what is still to do of its work."""
        while len(batch := progress.batch(place, self.batch_size)):
            # of its own, so that a resumed evaluation draws what an unbroken one would
            draws = torch.Generator().manual_seed((seed << 28) + (int(batch[0]) << 4) + place)
            found = attack(model, x[batch], y[batch], generator=draws)
            progress.record(place, batch, found)

    def _logits(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([model(part) for part in x.split(self.batch_size)])

    def _check_classes(self, classes: int) -> None:
        for name in self.attacks:
            if classes < LEAST_CLASSES.get(name, 2):
                kept = tuple(other for other in STANDARD if classes >= LEAST_CLASSES.get(other, 2))
                raise ValueError(
                    f"model has {classes} classes; attack {name!r} takes at least {LEAST_CLASSES.get(name, 2)}: "
                    f"leave it out, AutoAttack(..., attacks={kept})"
                )

    def _settings(self) -> dict[str, object]:
        return {**vars(self), "norm": self.norm.name}
