"""Weights from files, without unpickling anything but tensors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Means and standard deviations of the colours, which weights trained on ImageNet expect."""

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from torch's format with `weights_only=True`.

    Raises:
        ValueError: If the file is refused; the message names the command that converts it.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return state_dict(load_file(path))
    try:
        return state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"path={str(path)!r} holds more than weights and was not read. To take the tensors out of it: "
            f"python -m faultlines.models.clip.convert {path} {path.with_suffix('.safetensors')}"
        ) from error


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
