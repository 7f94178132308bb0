"""A training step of a vision transformer with differential attention against the one with softmax attention.

Forward pass and backward pass to all parameters, at equal width, depth and number of heads, both in the explicit
form of attention (the default under autograd). In turn, in one process, on one thread, in processor time; the ratio
is the median over the rounds of the ratio within a round.

    python -m benchmarks.differential
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, one_thread, row, show
from torch.nn import functional as F

from faultlines.models import ViT

ROUNDS, TARGET = 9, 1.35
SIZES = {
    "digits, 17 tokens": {
        "image_size": 8,
        "patch_size": 2,
        "channels": 1,
        "dim": 48,
        "depth": 4,
        "batch": 64,
    },
    "28 x 28, 50 tokens": {
        "image_size": 28,
        "patch_size": 4,
        "channels": 1,
        "dim": 64,
        "depth": 4,
        "batch": 64,
    },
    "32 x 32, 65 tokens": {
        "image_size": 32,
        "patch_size": 4,
        "channels": 3,
        "dim": 192,
        "depth": 4,
        "batch": 16,
    },
    "32 x 32, 257 tokens": {
        "image_size": 32,
        "patch_size": 2,
        "channels": 3,
        "dim": 64,
        "depth": 2,
        "batch": 8,
    },
}


def step(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    def run_once() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()

    return run_once


def run() -> list[dict]:
    """Return one row a size: name, ours_s, peer_s, ratio (differential / softmax), target and ok."""
    rows = []
    with one_thread():
        for name, sizes in SIZES.items():
            sizes = dict(sizes)
            batch = sizes.pop("batch")
            generator = torch.Generator().manual_seed(0)
            x = torch.rand(
                batch, sizes["channels"], sizes["image_size"], sizes["image_size"], generator=generator
            )
            y = torch.randint(10, (batch,), generator=generator)
            cases = {}
            for attention in ("differential", "softmax"):
                torch.manual_seed(0)
                cases[attention] = step(ViT(**sizes, classes=10, heads=4, attention=attention), x, y)
            times = interleaved(cases, ROUNDS)
            rows.append(row(f"DiffViT / ViT, {name}", times["differential"], times["softmax"], target=TARGET))
    return rows


if __name__ == "__main__":
    show(run())
