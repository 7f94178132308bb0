"""What an ensemble has found so far, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from faultlines.attacks.loop import AttackResult

TENSORS = ("x_adv", "found_by", "gradients", "reached")


def fingerprint(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, settings: dict[str, object]
) -> dict[str, str]:
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
class State:
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
    def fresh(cls, x: Tensor, wrong: Tensor) -> State:
        """Return the state in which only the clean samples have been looked at."""
        zeros = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x.detach().clone(), torch.where(wrong, 0, -1), zeros, zeros.clone())

    def attach(self, path: Path, identity: dict[str, str]) -> None:
        """Keep the state in a file, and go on from what the file holds.

        Raises:
            ValueError: If the file was made by another evaluation, or is no state.
        """
        self.path, self.identity = path, identity
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                kept = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises its own kind for every fault of a file
            raise ValueError(
                f"state={str(path)!r} cannot be read ({error}); remove it to begin anew"
            ) from error
        other = [name for name in identity if kept.get(name) != identity[name]]
        if other or set(tensors) != set(TENSORS):
            what = ", ".join(other) or "tensors"
            raise ValueError(
                f"state={str(path)!r} was made with other {what}; name another file, or remove it to begin anew"
            )
        for name, value in tensors.items():
            setattr(self, name, value.to(getattr(self, name)))

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
            self._write()

    def _write(self) -> None:
        """Write beside the file and rename, so that a stop leaves the old state or the new one."""
        data = save(
            {name: getattr(self, name).cpu().contiguous() for name in TENSORS}, metadata=self.identity
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_bytes(data)
        beside.replace(self.path)
