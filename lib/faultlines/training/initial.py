"""Initial weights that depend on a seed and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def seeded(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return `make_model()` with torch's global generator seeded, and the generator as it was before.

    torch's layers draw their weights from the global generator and take no other.

    Example:
        >>> a, b = (seeded(lambda: nn.Linear(2, 2), seed=3) for _ in range(2))
        >>> bool((a.weight == b.weight).all())
        True
    """
    with torch.random.fork_rng(devices=[]):  # models are made on the CPU and moved after
        torch.default_generator.manual_seed(seed)
        return make_model()
