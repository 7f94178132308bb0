"""The standard ensemble of AutoAttack (Croce & Hein 2020), resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from faultlines.attacks.apgd import APGD
from faultlines.attacks.attack import Attack, Model, Victim, check_closed_form, check_count, check_logits
from faultlines.attacks.fab import FAB
from faultlines.attacks.losses import margin
from faultlines.attacks.norms import Norm
from faultlines.attacks.results import AttackResult
from faultlines.attacks.square import Square
from faultlines.models.weight_files import DAMAGED, alone, clear_leftovers, set_aside, write_whole

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


class AutoAttack(Attack[EnsembleResult]):
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
        batch_size: Samples attacked at once; fewer lose less work when stopped. Each batch draws for itself, so that
            another size is another seed.

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
        super().__init__(eps=eps, norm=norm)
        check_closed_form(self.norm)
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
        shared: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
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
        model: Model,
        x: Float[Tensor, "batch ..."],
        y: Int[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
        state: str | Path | None = None,
    ) -> EnsembleResult:
        """Attack samples, batch after batch; see `Attack.__call__`.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`.
            x: Clean samples in [0, 1].
            y: True classes.
            generator: Source of all draws (one is taken from it); None takes a fresh one seeded with 0.
            state: A file that keeps what was found after every batch. If it is there, the evaluation goes on
                where it stopped and ends as it would have ended; where it is damaged it is set aside, and all
                begins anew. A second process with the same file waits for the first.

        Returns:
            A fooling point for each sample that is not robust, the clean sample for the others; `loss` is the margin
            there.

        Raises:
            ValueError: As any attack; if there are too few classes for a member, or the state was made with another
                model, other samples, settings or seed.
        """
        return self._run(model, x, y, generator, state=state)

    def search(
        self,
        victim: Victim,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        state: str | Path | None = None,
    ) -> EnsembleResult:
        """Run the members in turn."""
        if x.ndim != 4 and "square" in self.attacks:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; Square takes images [batch, channel, height, width]: "
                "leave it out, AutoAttack(..., attacks=('apgd-ce', 'apgd-t', 'fab-t'))"
            )
        logits = self._logits(victim, x)
        check_logits(logits, y)
        self._check_classes(logits.shape[1])
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        progress = Progress.fresh(x, logits.argmax(dim=1) != y)
        with nullcontext() if state is None else alone(Path(state)):
            if state is not None:
                progress.attach(
                    Path(state), fingerprint(victim.model, x, y, {**self._settings(), "seed": seed})
                )
            for place, name in enumerate(self.attacks):
                self._run_member(victim, x, y, progress, place, self.member(name), seed)
        final = margin(self._logits(victim, progress.x_adv), y)
        return EnsembleResult(
            progress.x_adv, progress.found_by >= 0, final, progress.gradients, progress.found_by
        )

    def _run_member(
        self,
        victim: Victim,
        x: Tensor,
        y: Tensor,
        progress: Progress,
        place: int,
        attack: APGD | FAB | Square,
        seed: int,
    ) -> None:
        """Run one member on what is still to do of its work."""
        while len(batch := progress.batch(place, self.batch_size)):
            # of its own, so that a resumed evaluation draws what an unbroken one would
            draws = torch.Generator().manual_seed((seed << 28) + (int(batch[0]) << 4) + place)
            found = attack.search(victim, x[batch], y[batch], draws)
            progress.record(place, batch, found)

    def _logits(self, victim: Victim, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([victim(part) for part in x.split(self.batch_size)])

    def _check_classes(self, classes: int) -> None:
        for name in self.attacks:
            if classes < LEAST_CLASSES.get(name, 2):
                kept = tuple(other for other in STANDARD if classes >= LEAST_CLASSES.get(other, 2))
                raise ValueError(
                    f"model has {classes} classes; attack {name!r} takes at least {LEAST_CLASSES.get(name, 2)}: "
                    f"leave it out, AutoAttack(..., attacks={kept})"
                )

    def advice(self, flat: int, walked: int) -> str:
        """Say nothing of the first member's gradients: others take another loss, or none."""
        del flat, walked
        return ""

    def _settings(self) -> dict[str, object]:
        return {**vars(self), "norm": self.norm.name}


TENSORS = ("x_adv", "found_by", "gradients", "reached")


def fingerprint(model: Model, x: Tensor, y: Tensor, settings: dict[str, object]) -> dict[str, str]:
    """Return what a state must have in common with the evaluation that goes on from it.

    Raises:
        ValueError: If the model is no `nn.Module`: a function's weights cannot be seen.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"state needs a model whose weights can be compared; {type(model).__name__} is no nn.Module: "
            "wrap it in one, or leave out state"
        )
    weights = [*model.named_parameters(), *model.named_buffers()]
    modes = [layer.training for layer in model.modules()]
    return {
        "model": _digest(f"{type(model).__module__}.{type(model).__qualname__}\n{model}\n{modes}", weights),
        "samples": _digest("", [("x", x), ("y", y)]),
        "settings": json.dumps(settings, sort_keys=True),
    }


def _digest(text: str, tensors: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)} ".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


@dataclass
class Progress:
    """Points found, who found them, and how far each sample has come.

    Attributes:
        x_adv: Fooling points, clean samples where there is none.
        found_by: -1 for a survivor, 0 for a misclassified clean sample, else the member's place from 1.
        gradients: Gradient evaluations spent.
        reached: How many members have been run on each sample.
    """

    x_adv: Tensor
    found_by: Tensor
    gradients: Tensor
    reached: Tensor
    path: Path | None = None
    identity: dict[str, str] | None = None

    @classmethod
    def fresh(cls, x: Tensor, wrong: Tensor) -> Progress:
        """Return the state in which only the clean samples have been looked at."""
        zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x.detach().clone(), torch.where(wrong, 0, -1), zeros, zeros.clone())

    def attach(self, path: Path, identity: dict[str, str]) -> None:
        """Keep the state in a file, and go on from what the file holds; one that is damaged is set aside.

        Raises:
            ValueError: If the file was made by another evaluation, or is a folder.
        """
        self.path, self.identity = path, identity
        clear_leftovers(path)
        if not path.exists():
            return
        if path.is_dir():
            raise ValueError(f"state={str(path)!r} is a folder; give it the name of a file")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                kept = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:  # another process set it aside
            return
        except DAMAGED:
            set_aside(path, "state of AutoAttack", "the attack begins anew")
            return
        if other := [name for name in identity if kept.get(name) not in (None, identity[name])]:
            raise ValueError(
                f"state={str(path)!r} was made with other {', '.join(other)}; name another file, or remove it to "
                "begin anew"
            )
        if not kept.keys() >= identity.keys() or not self._fits(tensors):
            set_aside(path, "state of AutoAttack", "the attack begins anew")
            return
        for name, value in tensors.items():
            setattr(self, name, value.to(getattr(self, name)))

    def _fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether a file's tensors can be those of this evaluation."""
        own = {name: (getattr(self, name).shape, getattr(self, name).dtype) for name in TENSORS}
        if {name: (value.shape, value.dtype) for name, value in tensors.items()} != own:
            return False
        x, found_by, reached = tensors["x_adv"], tensors["found_by"], tensors["reached"]
        return bool(x.isfinite().all() and (found_by >= -1).all() and (reached >= 0).all())

    def batch(self, place: int, size: int) -> Tensor:
        """Return the next survivors on which the member at `place` has not been run."""
        return ((self.found_by < 0) & (self.reached == place)).nonzero().squeeze(1)[:size]

    def record(self, place: int, batch: Tensor, found: AttackResult) -> None:
        """Enter what a member found, and write it down."""
        hit = batch[found.success]
        self.x_adv[hit] = found.x_adv[found.success]
        self.found_by[hit] = place + 1
        self.gradients[batch] += found.gradients
        self.reached[batch] = place + 1
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        """Write the state so that a stop leaves the old one or the new one."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in TENSORS}
        write_whole(path, lambda beside: beside.write_bytes(save(tensors, metadata=self.identity)))
