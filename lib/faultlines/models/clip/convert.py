"""Turn a checkpoint that torch's restricted unpickler refuses into safetensors, without running what it names.

A pickle may name any function of any module and have it called. Here nothing the file names is looked up or called
beyond what `torch.load(weights_only=True)` allows by itself (tensors, numbers, strings, containers): every other
name is replaced by an inert stand-in that takes whatever it is given and does nothing. Trusted is thus torch's
restricted unpickler and nothing of the file. The published DiffCLIP files need this: they hold the training
arguments (`argparse.Namespace`, `pathlib.PosixPath`, NumPy scalars) beside the weights.

    python -m faultlines.models.clip.convert checkpoint_best.pt diffclip.safetensors
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from faultlines.models.weight_files import state_dict


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
    try:
        replaced = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
        with torch.serialization.safe_globals([(Inert, name) for name in replaced]):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError) as error:
        raise ValueError(f"source={str(source)!r} cannot be read with stand-ins: {error}") from error
    # safetensors wants each tensor with memory of its own
    save_file(
        {name: value.detach().clone().contiguous() for name, value in state_dict(content).items()}, target
    )
    return replaced


def main(arguments: list[str] | None = None) -> None:
    """Convert from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m faultlines.models.clip.convert", description=__doc__.split("\n")[0]
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
