"""Checkpoints of a training run: written beside and renamed, read without unpickling code.

Where the environment variable `FAULTLINES_CHECKPOINTS` names a folder, every training run without a file of its
own keeps one there, under a name made of all that makes two runs the same. That is how a notebook that is ended
in the middle and started again goes on from the training it had done, and no chapter has to know. Networks of equal
weights may differ in a switch (an activation, a scale, a rate of dropout) that no list of shapes shows, so the name
holds the first batch's loss and gradients too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlines.training.batches import Augment
from faultlines.training.objectives.objective import Objective
from faultlines.training.settings import Settings

FOLDER = "FAULTLINES_CHECKPOINTS"


def wanted() -> bool:
    """Whether the environment asks every training run for a checkpoint."""
    return bool(os.environ.get(FOLDER))


def automatic(
    run: dict[str, str],
    models: Sequence[nn.Module],
    validation: tuple[Tensor, Tensor] | None = None,
    step: Sequence[Tensor] = (),
) -> Path:
    """Return the file in the folder of `FAULTLINES_CHECKPOINTS` that belongs to a run from these weights.

    Args:
        run: What `identity` says.
        models: The networks, untrained.
        validation: What is scored after every epoch.
        step: What `first_step` says of each network.
    """
    values = [value for model in models for value in model.state_dict().values()]
    content = [run, *map(_digest, [*values, *(validation or ()), *step])]
    name = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
    return Path(os.environ[FOLDER]) / f"{name}.pt"


def first_step(model: nn.Module, objective: Objective, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the loss and the gradients of a first batch; the model and the random state are left as they are."""
    model = copy.deepcopy(model).train()  # a copy: batch statistics would move
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(0)  # of dropout
        loss, _ = objective(model, x, y)
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return [loss, *(torch.zeros(0) if g is None else g for g in gradients)]


def identity(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    settings: Settings,
    objective: Objective,
    seed: int,
    augment: Augment | None,
) -> dict[str, str]:
    """Return what makes two runs the same run: settings, objective, seed, data and the model's shapes."""
    shapes = ", ".join(f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.state_dict().items())
    named = {name: repr(value) for name, value in asdict(settings).items()}
    return named | {
        "objective": repr(objective),
        "seed": repr(seed),
        "augment": repr(augment),
        "data": f"{tuple(x.shape)} {_digest(x)} {_digest(y)}",
        "model": hashlib.blake2b(f"{type(model).__name__} {model!r} {shapes}".encode(), digest_size=8).hexdigest(),
    }  # fmt: skip


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a killed process leaves the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    torch.save(state, beside)
    beside.replace(path)


def load(path: Path, run: dict[str, str]) -> dict[str, Any] | None:
    """Return the state at `path`, or None where there is no file.

    Raises:
        ValueError: If the file belongs to another run; the message names what differs.
    """
    if not path.exists():
        return None
    # generator states must stay on the CPU; load_state_dict moves the rest to its own device
    state = torch.load(path, map_location="cpu", weights_only=True)
    found = state["run"]
    differing = [
        f"{name}: {found.get(name)} there, {run.get(name)} here"
        for name in sorted(found.keys() | run.keys())
        if found.get(name) != run.get(name)
    ]
    if differing:
        raise ValueError(
            f"checkpoint={str(path)!r} was made by another run ({'; '.join(differing)}); "
            "delete it, or give this run its own file"
        )
    return state


def _digest(values: Tensor) -> str:
    content = values.detach().cpu().contiguous().numpy()
    return hashlib.blake2b(content.tobytes(), digest_size=8).hexdigest()
