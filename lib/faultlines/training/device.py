"""Where to compute."""

from __future__ import annotations

import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return a device by name; `"auto"` is the first GPU where there is one, else the CPU.

    Args:
        name: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`.

    Raises:
        ValueError: If the name is none of these, or names a GPU that is not there.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"device={name!r} is not one of 'auto', 'cpu', 'cuda', 'cuda:N'")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
