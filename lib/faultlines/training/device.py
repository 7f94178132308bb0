"""Where to compute."""

from __future__ import annotations

import torch


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name; `"auto"` is the first GPU that this process may see, else the CPU.

    The devices that `CUDA_VISIBLE_DEVICES` leaves are numbered from 0.

    Args:
        name: `"auto"`, or any device that torch knows: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, the name of a backend
            of one's own.

    Raises:
        ValueError: If torch does not know the name, or the device is not there.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device={name!r} is not 'auto', and no device that torch knows: 'cpu', 'cuda', 'cuda:1', ..."
        ) from None
    if device.type == "meta":
        raise ValueError("device='meta' holds no values, and nothing can be computed there")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    try:
        torch.empty(0, device=device)  # a backend is asked itself whether it is there
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(f"device={name!r} is not there: {str(error).splitlines()[0]}") from None
    return device
