"""Weights from files, without unpickling anything but tensors.

A pickle may name any function of any module and have it called. Nothing that a file names is looked up or called here
beyond what `torch.load(weights_only=True)` allows by itself (tensors, numbers, strings, containers). A checkpoint that
holds more is refused by `read_state`; `convert_checkpoint` takes the tensors out of it: every other name is replaced
by an inert stand-in that takes whatever it is given and does nothing. Trusted is thus torch's restricted unpickler and
nothing of the file. The published DiffCLIP files need this: they hold the training arguments (`argparse.Namespace`,
`pathlib.PosixPath`, NumPy scalars) beside the weights.

    python -m faultlines.models.weight_files checkpoint_best.pt diffclip.safetensors
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights

# what a damaged file makes torch and pickle raise
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    OverflowError,
)


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
        return state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"path={str(path)!r} holds more than weights and was not read. To take the tensors out of it: "
            f"python -m faultlines.models.weight_files {path} {path.with_suffix('.safetensors')}"
        ) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = Path(path)
    _check_file(path)
    try:
        return load_file(path)
    except (SafetensorError, *_DAMAGED) as error:
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
        {} if not isinstance(content, dict) else {k: v for k, v in content.items() if isinstance(v, Tensor)}
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
            tensors = state_dict(torch.load(source, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, *_DAMAGED) as error:
        raise ValueError(
            f"source={str(source)!r} cannot be read with stand-ins: {one_line(error)}"
        ) from error
    # safetensors wants each tensor with memory of its own
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, target)
    return replaced


def _check_file(path: Path, argument: str = "path") -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ValueError(f"{argument}={str(path)!r} {what}; a file with weights is needed")
    if not path.stat().st_size:
        raise ValueError(f"{argument}={str(path)!r} is empty; a file with weights is needed")


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"path={str(path)!r} is damaged or no file of weights: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Return what an error says on one line, which torch follows by a page."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]} ..."


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
