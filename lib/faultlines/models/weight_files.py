"""Weights from files, without unpickling anything but tensors.

A pickle may name any function of any module and have it called. Nothing that a file names is looked up or called here
beyond what `torch.load(weights_only=True)` allows by itself (tensors, numbers, strings, containers). A checkpoint that
holds more is refused by `read_state`; `convert_checkpoint` takes the tensors out of it: every other name is replaced
by an inert stand-in that takes whatever it is given and does nothing. Trusted is thus torch's restricted unpickler and
nothing of the file. The published DiffCLIP files need this: they hold the training arguments (`argparse.Namespace`,
`pathlib.PosixPath`, NumPy scalars) beside the weights.

A file that a computation goes on from is written by `write_whole`, which others may read or write meanwhile, and put
aside by `set_aside` where it is damaged.

    python -m faultlines.models.weight_files checkpoint_best.pt diffclip.safetensors
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import socket
import struct
import time
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from faultlines.data.arrays import shown

try:
    import fcntl
except ImportError:  # not on Windows, where two processes may do the same work twice
    fcntl = None  # type: ignore[assignment]

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights

# what a damaged file makes torch, pickle and safetensors raise
DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError,
    ArithmeticError, MemoryError, struct.error, pickle.PickleError, SafetensorError,
)  # fmt: skip

PART = re.compile(r"\.(\d+)@(.+)\.[0-9a-f]{8}\.part$")  # names the process that writes it, and its machine
OURS = re.compile(r"[0-9a-f]{32}\.pt\.(part|lock)$")  # beside a checkpoint that has no name of its own
STALE = 24 * 3600.0  # seconds after which a part of a file is nobody's, whoever began it


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from torch's format with `weights_only=True`.

    Raises:
        ValueError: If the file is missing, damaged or refused, or holds no tensors; the message names the command
            that converts it, where that could help.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return state_dict(read_safetensors(path))
    _check_file(path)
    try:
        content = read_torch(path)
    except DAMAGED as error:
        if _asks_for_more(path):
            raise ValueError(
                f"path={shown(str(path), 200)} holds more than weights and was not read; to take the tensors out: "
                f"python -m faultlines.models.weight_files {path} {path.with_suffix('.safetensors')}"
            ) from error
        raise _damaged(path, error) from error
    try:
        return state_dict(content)
    except ValueError as error:
        raise ValueError(f"path={shown(str(path), 200)}: {error}") from None


def read_torch(path: Path) -> Any:
    """Read a file in torch's format on the CPU, without calling anything that it names and without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of pickles that it did not write
        return torch.load(path, map_location="cpu", weights_only=True)


def _asks_for_more(path: Path) -> bool:
    """Whether a whole file of torch's format names what is not read with weights."""
    try:
        return zipfile.is_zipfile(path) and bool(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (*DAMAGED, zipfile.BadZipFile):
        return False


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = Path(path)
    _check_file(path)
    try:
        return load_file(path)
    except DAMAGED as error:
        raise _damaged(path, error) from error


def state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name of what a checkpoint holds, unwrapped and without DataParallel's prefix.

    Raises:
        ValueError: If there are none.
    """
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {}
        if not isinstance(content, dict)
        else {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    )
    if not tensors:
        raise ValueError("the checkpoint holds no tensors by name")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


class Inert:
    """Stands in for whatever a checkpoint names: accepts any construction and any state, keeps nothing."""

    def __new__(cls, *args: Any) -> Inert:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def convert_checkpoint(source: str | Path, target: str | Path) -> list[str]:
    """Write the tensors of a torch checkpoint's state dict to a safetensors file.

    Args:
        source: A file in torch's zip format.
        target: The safetensors file to write.

    Returns:
        The names in `source` that were replaced by inert stand-ins.

    Raises:
        ValueError: If the file is in another format, names something even stand-ins are not allowed for (system
            modules), or holds no tensors where a state dict is expected.
    """
    _check_file(Path(source), "source")
    try:
        replaced = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
        with torch.serialization.safe_globals([(Inert, name) for name in replaced]):
            tensors = state_dict(read_torch(Path(source)))
    except DAMAGED as error:
        raise ValueError(
            f"source={shown(str(source), 200)} cannot be read with stand-ins: {one_line(error)}"
        ) from error
    # safetensors wants each tensor with memory of its own
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, target)
    return replaced


def _check_file(path: Path, argument: str = "path") -> None:
    what = ""
    try:
        if path.is_dir():
            what = "is a folder"
        elif not path.is_file():
            what = "is not there"
        elif not path.stat().st_size:
            what = "is empty"
    except (OSError, ValueError) as error:  # a name too long, say
        what = f"cannot be a file ({getattr(error, 'strerror', None) or error})"
    if what:
        raise ValueError(f"{argument}={shown(str(path), 200)} {what}; a file with weights is needed")


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"path={shown(str(path), 200)} is damaged or no file of weights: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Return what an error says on one line, which torch follows by a page."""
    words = " ".join(str(error).split()) or type(error).__name__
    found = re.search(
        r"WeightsUnpickler error: (.+?)( Check the documentation|$)", words
    )  # after much advice
    words = found[1] if found else words.removesuffix(".")
    return words if len(words) <= 200 else f"{words[:200]} ..."


# files that a computation goes on from


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a killed process leaves the old one or the new one, never a part.

    The part is written under a name of this process alone: another one may write the same file.

    Args:
        path: The file.
        write: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}@{socket.gethostname()}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def set_aside(path: Path, what: str, then: str) -> None:
    """Rename a file that cannot be gone on from, and say so.

    Args:
        path: The file.
        what: What it should be.
        then: What happens without it.
    """
    aside = path.with_name(path.name + ".damaged")
    with suppress(FileNotFoundError):  # another process was first
        path.replace(aside)
    warnings.warn(
        f"the {what} {shown(str(path), 200)} cannot be read; it is now {aside.name!r}, and {then}",
        stacklevel=2,
    )


def clear_leftovers(path: Path) -> None:
    """Delete what killed processes left beside a file: parts of files, and locks that nobody holds."""
    own = (path.name + ".part", path.name + ".lock")
    for left in [*path.parent.glob("*.part"), *path.parent.glob("*.lock")]:
        writer = PART.search(left.name)
        if writer is None and left.name not in own and not OURS.fullmatch(left.name):
            continue  # not ours
        with suppress(OSError):  # another process is doing the same
            if left.suffix == ".lock":
                if not _held(left):
                    left.unlink()
                continue
            dead = writer is None or (writer[2] == socket.gethostname() and not _alive(int(writer[1])))
            if dead or time.time() - left.stat().st_mtime > STALE:
                left.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        return True
    return True


def _held(lock: Path) -> bool:
    if fcntl is None:
        return True
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock beside a file, which goes when the process does; another process that wants it waits."""
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    held, told = lock.open("w"), False
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | (0 if told else fcntl.LOCK_NB))
            except BlockingIOError:
                warnings.warn(f"another process is at work on {path.name!r}; waiting for it", stacklevel=5)
                told = True
                continue
            except OSError:  # a file system without locks: both do the same work, and write the same
                break
            # who held it before may have deleted it on the way out: then this is a lock of nothing
            if _same_file(lock, held.fileno()):
                break
            held.close()
            held = lock.open("w")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        held.close()


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def main(arguments: list[str] | None = None) -> None:
    """Convert from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m faultlines.models.weight_files", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    replaced = convert_checkpoint(options.source, options.target)
    print("Trusted: torch's restricted unpickler, nothing that the file names.")
    print(f"Replaced by inert stand-ins: {', '.join(replaced) or 'nothing'}")
    print(f"Wrote {options.target}")


if __name__ == "__main__":
    main()
