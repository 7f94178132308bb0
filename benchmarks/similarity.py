"""Kendall's tau of a batch of maps against a loop over `scipy.stats.kendalltau`: in turn, one thread, processor time.

python -m benchmarks.similarity
"""

from __future__ import annotations

import torch
from benchmarks._timing import faster, interleaved, one_thread, show
from scipy import stats

from faultlines.estimators.similarity import kendall_tau

MAPS, PIXELS, ROUNDS = 1000, 784, 25
TARGET, TOLERANCE = 20.0, 1e-6


def loop(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    pairs = zip(a.numpy(), b.numpy(), strict=True)
    return torch.tensor([stats.kendalltau(x, y).statistic for x, y in pairs])


def compared(kind: str, a: torch.Tensor, b: torch.Tensor) -> dict:
    """Return the row of one kind of maps."""
    cases = {"ours": lambda: kendall_tau(a, b), "loop": lambda: loop(a, b)}
    times = interleaved(cases, ROUNDS)
    error = float((cases["ours"]() - cases["loop"]()).abs().max())
    return faster(
        f"Kendall's tau / scipy loop, {kind}",
        times["ours"],
        times["loop"],
        least=TARGET,
        words=f">= {TARGET:g}x faster, error <= {TOLERANCE:g}",
        also=error <= TOLERANCE,
        note=f"{MAPS} pairs of float32 maps of {PIXELS} pixels; largest difference {error:.1e}",
    )


def run() -> list[dict]:
    """Return a row for maps without many ties and one for maps with many."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(MAPS, PIXELS, generator=generator)
    b = a + torch.randn(MAPS, PIXELS, generator=generator)
    kinds = {"few ties": (a, b), "half the pixels zero": (a.clamp_min(0), b.clamp_min(0))}
    with one_thread():
        return [compared(kind, *maps) for kind, maps in kinds.items()]


if __name__ == "__main__":
    show(run())
