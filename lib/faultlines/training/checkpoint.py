"""Checkpoints of a training run: written beside and renamed, read without unpickling code.

Where the environment variable `FAULTLINES_CHECKPOINTS` names a folder, every training run without a file of its
own keeps one there, under a name made of all that makes two runs the same. That is how a notebook that is ended
in the middle and started again goes on from the training it had done, and no chapter has to know. Networks of equal
weights may differ in a switch (an activation, a scale, a rate of dropout) that no list of shapes shows, so the name
holds the first batch's loss and gradients too.

Processes may share a folder. Each writes under a name of its own and renames, and of two that train the same run the
second waits for the first and reads what it left. A file that cannot be read is set aside under `.damaged`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlines.data.arrays import shown
from faultlines.models.weight_files import DAMAGED, alone, clear_leftovers, read_torch, set_aside, write_whole
from faultlines.training.optimizer import Settings
from faultlines.training.seeding import own_draws

FOLDER = "FAULTLINES_CHECKPOINTS"

LossOf = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def wanted() -> bool:
    """Whether the environment asks every training run for a checkpoint."""
    return bool(os.environ.get(FOLDER))


@dataclass
class Checkpoint:
    """The file of one run.

    Attributes:
        path: Where it is.
        run: What makes two runs the same; see `identity`.
        every: Epochs between two writes.
        pause: Seconds between two writes, for runs whose epochs are shorter than a write; the last is always made.
    """

    path: Path
    run: dict[str, str]
    every: int = 1
    pause: float = 0.0

    def __post_init__(self) -> None:
        self._written = time.monotonic()

    def due(self, epoch: int) -> bool:
        """Whether it is time to write after so many epochs."""
        return epoch % self.every == 0 and time.monotonic() - self._written >= self.pause

    def save(self, state: dict[str, Any]) -> None:
        """Write the state of the run."""
        save(self.path, {"run": self.run, **state})
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state of the run, or None; see `load`."""
        return load(self.path, self.run)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the file; another process that wants it waits."""
        with alone(self.path):
            yield


def automatic(
    run: dict[str, str],
    models: Sequence[nn.Module],
    given: Sequence[Tensor] = (),
    step: Sequence[Tensor] = (),
) -> Path:
    """Return the file in the folder of `FAULTLINES_CHECKPOINTS` that belongs to a run from these weights.

    Args:
        run: What `identity` says.
        models: The networks, untrained.
        given: What else the run depends on, or is scored on after every epoch.
        step: What `first_step` says of each network.
    """
    values = [value for model in models for value in model.state_dict().values()]
    content = [run, *map(_digest, [*values, *given, *step])]
    name = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
    return Path(os.environ[FOLDER]) / f"{name}.pt"


def first_step(model: nn.Module, objective: LossOf, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the loss and the gradients of a first batch; the model and the random state are left as they are."""
    model = copy.deepcopy(model).train()  # a copy: batch statistics would move
    with own_draws(0, x.device):  # of dropout
        loss, _ = objective(model, x, y)
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return [loss, *(torch.zeros(0) if g is None else g for g in gradients)]


def identity(
    model: nn.Module, data: Sequence[Tensor], settings: Settings, objective: object, **more: object
) -> dict[str, str]:
    """Return what makes two runs the same run: settings, objective, data, the model's shapes and whatever else."""
    shapes = ", ".join(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.state_dict().items())
    named = {name: repr(value) for name, value in asdict(settings).items()}
    named |= {name: repr(value) for name, value in more.items()}
    return named | {
        "objective": repr(objective),
        "data": f"{tuple(data[0].shape)} {' '.join(map(_digest, data))}",
        "model": hashlib.blake2b(f"{type(model).__name__} {model!r} {shapes}".encode(), digest_size=8).hexdigest(),
    }  # fmt: skip


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a killed process leaves the old file or the new one; see `write_whole`."""
    write_whole(path, lambda beside: torch.save({**state, "seal": _seal(state)}, beside))


def load(path: Path, run: dict[str, str]) -> dict[str, Any] | None:
    """Return the state at `path`, or None where there is no file that can be read.

    A file that is empty, cut off, of another form or not as it was written is set aside. What killed processes left in
    its folder, parts of files and locks, is deleted.

    Raises:
        ValueError: If the file belongs to another run, the message names what differs; or if it is a folder.
    """
    clear_leftovers(path)
    if not path.exists():
        return None
    if path.is_dir():
        raise ValueError(f"checkpoint={shown(str(path), 200)} is a folder; give it the name of a file")
    try:
        # generator states must stay on the CPU; load_state_dict moves the rest to its own device
        state = read_torch(path)
        found = {str(name): str(value) for name, value in state["run"].items()}
        whole = state.pop("seal") == _seal(state)
    except FileNotFoundError:  # another process set it aside
        return None
    except DAMAGED:
        state, whole, found = {}, False, {}
    if not whole:
        discard(path)
        return None
    differing = [
        f"{name}: {shown(found.get(name))} there, {shown(run.get(name))} here"
        for name in sorted(found.keys() | run.keys())
        if found.get(name) != run.get(name)
    ]
    if differing:
        raise ValueError(
            f"checkpoint={shown(str(path), 200)} was made by another run ({'; '.join(differing)}); "
            "delete it, or give this run its own file"
        )
    return state


def discard(path: Path) -> None:
    """Set aside a file that is no checkpoint, and say so."""
    set_aside(path, "checkpoint", "the run trains again")


def _seal(state: object) -> str:
    """Return a digest of numbers, texts and tensors in containers."""
    digest = hashlib.blake2b(digest_size=8)

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} {_digest(value)}".encode())
        elif isinstance(value, dict | list | tuple):
            digest.update(f"{len(value)}(".encode())
            for part in value.items() if isinstance(value, dict) else value:
                add(part)
        else:
            digest.update(f"{type(value).__name__} {value!r},".encode())

    add(state)
    return digest.hexdigest()


def _digest(values: Tensor) -> str:
    content = (
        values.detach().cpu().contiguous().flatten().view(torch.uint8)
    )  # bfloat16 is none of numpy's types
    # the tensor's own memory: a copy of a large data set is as large
    return hashlib.blake2b(content.numpy().data, digest_size=8).hexdigest()
