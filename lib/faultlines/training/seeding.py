"""Random draws that depend on a seed and on nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def seeded(make_model: Callable[[], M], seed: int) -> M:
    """Return `make_model()` with torch's global generator seeded, and the generator as it was before.

    torch's layers draw their weights from the global generator and take no other.

    Example:
        >>> a, b = (seeded(lambda: nn.Linear(2, 2), seed=3) for _ in range(2))
        >>> bool((a.weight == b.weight).all())
        True
    """
    with torch.random.fork_rng(devices=[]):  # models are made on the CPU and moved after
        torch.default_generator.manual_seed(operator.index(seed))
        return make_model()


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, and put them back after."""
    accelerator = device.type not in ("cpu", "mps")  # whose generator cannot be forked
    with torch.random.fork_rng(
        devices=[device] if accelerator else [], device_type=device.type if accelerator else "cuda"
    ):
        torch.manual_seed(operator.index(seed))
        yield


def global_state(device: torch.device) -> dict[str, torch.Tensor | None]:
    """Return the states of torch's global generators, of the CPU and of a device."""
    module = torch.get_device_module(device)
    there = (
        None if device.type == "cpu" else module.get_rng_state(*([] if device.type == "mps" else [device]))
    )
    return {"random": torch.get_rng_state(), "random_device": there}


def set_global_state(state: dict[str, torch.Tensor | None], device: torch.device) -> None:
    """Put torch's global generators where `global_state` was taken."""
    if state["random"] is not None:
        torch.set_rng_state(state["random"])
    if state["random_device"] is not None:
        module = torch.get_device_module(device)
        module.set_rng_state(state["random_device"], *([] if device.type == "mps" else [device]))
