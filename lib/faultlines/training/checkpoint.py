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
import pickle
import re
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultlines.training.seeding import own_draws
from faultlines.training.settings import Settings

try:
    import fcntl
except ImportError:  # not on Windows, where two processes may train the same run twice
    fcntl = None  # type: ignore[assignment]

FOLDER = "FAULTLINES_CHECKPOINTS"
PART = re.compile(r"\.(\d+)@(.+)\.[0-9a-f]{8}\.part$")  # names the process that writes it, and its machine
STALE = 24 * 3600.0  # seconds after which a part of a file is nobody's, whoever began it

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
        with _locked(self.path):
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
    """Write `state` so that a killed process leaves the old file or the new one, never a part.

    The part is written under a name of this process alone: another one may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}@{socket.gethostname()}.{uuid.uuid4().hex[:8]}.part")
    try:
        torch.save(state, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path, run: dict[str, str]) -> dict[str, Any] | None:
    """Return the state at `path`, or None where there is no file that can be read.

    A file that is empty, cut off or of another form is set aside. So are the parts of files in its folder whose
    writers are no more.

    Raises:
        ValueError: If the file belongs to another run, the message names what differs; or if it is a folder.
    """
    _clear_parts(path)
    if not path.exists():
        return None
    if path.is_dir():
        raise ValueError(f"checkpoint={str(path)!r} is a folder; give it the name of a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickles that it did not write
            # generator states must stay on the CPU; load_state_dict moves the rest to its own device
            state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["run"]
        keys = found.keys() | run.keys()
    except FileNotFoundError:  # another process set it aside
        return None
    except (
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        pickle.PickleError,
    ):
        set_aside(path)
        return None
    differing = [
        f"{name}: {found.get(name)} there, {run.get(name)} here"
        for name in sorted(keys)
        if found.get(name) != run.get(name)
    ]
    if differing:
        raise ValueError(
            f"checkpoint={str(path)!r} was made by another run ({'; '.join(differing)}); "
            "delete it, or give this run its own file"
        )
    return state


def set_aside(path: Path) -> None:
    """Rename a file that is no checkpoint, and say so."""
    aside = path.with_name(path.name + ".damaged")
    with suppress(FileNotFoundError):  # another process was first
        path.replace(aside)
    warnings.warn(
        f"the checkpoint {str(path)!r} cannot be read; it is now {aside.name!r}, and the run trains again",
        stacklevel=2,
    )


def _clear_parts(path: Path) -> None:
    """Delete what killed processes left of the files in a checkpoint's folder."""
    for part in path.parent.glob("*.part"):
        writer = PART.search(part.name)
        if writer is None and not part.name.endswith(".pt.part"):
            continue  # not ours
        with suppress(OSError):  # another process is doing the same
            dead = writer is None or (writer[2] == socket.gethostname() and not _alive(int(writer[1])))
            if dead or time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        return True
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock beside a file; it goes when the process does."""
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warnings.warn(f"another process is training {path.name!r}; waiting for it", stacklevel=4)
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: both train, and both write the same
            pass
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _digest(values: Tensor) -> str:
    content = (
        values.detach().cpu().contiguous().flatten().view(torch.uint8)
    )  # bfloat16 is none of numpy's types
    return hashlib.blake2b(content.numpy().tobytes(), digest_size=8).hexdigest()
