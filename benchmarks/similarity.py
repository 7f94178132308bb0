"""Kendall's tau of a batch of maps against a loop over `scipy.stats.kendalltau`.

Two rows in processor time, both on one thread: the work done. Two more in seconds of the clock, as a user waits for
a batch: ours on all cores, and the loop as anyone writes it, on one.

    python -m benchmarks.similarity
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, ratio, threads
from scipy import stats

from faultlines.estimators.similarity import kendall_tau

MAPS, PIXELS, ROUNDS = 1000, 784, 9
TARGET, TOLERANCE = 20.0, 1e-6


def loop(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    pairs = zip(a.numpy(), b.numpy(), strict=True)
    return torch.tensor([stats.kendalltau(x, y).statistic for x, y in pairs])


def row(name: str, a: torch.Tensor, b: torch.Tensor, count: int, clock: Callable[[], float]) -> dict:
    with threads(count):
        cases = {"ours": lambda: kendall_tau(a, b), "loop": lambda: loop(a, b)}
        times = interleaved(cases, ROUNDS, clock=clock)
        error = float((cases["ours"]() - cases["loop"]()).abs().max())
    faster = ratio(times["loop"], times["ours"])
    return {
        "name": f"Kendall's tau, {name} / scipy loop",
        "ours_s": statistics.median(times["ours"]),
        "peer_s": statistics.median(times["loop"]),
        "ratio": faster,
        "target": f">= {TARGET:g}x faster, error <= {TOLERANCE:g}",
        "ok": faster >= TARGET and error <= TOLERANCE,
        "note": f"{MAPS} pairs of float32 maps of {PIXELS} pixels; largest difference {error:.1e}",
    }


def run() -> list[dict]:
    """Return a row for maps without many ties and one for maps with many: on one thread, then on all cores."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(MAPS, PIXELS, generator=generator)
    b = a + torch.randn(MAPS, PIXELS, generator=generator)
    kinds = {"few ties": (a, b), "half the pixels zero": (a.clamp_min(0), b.clamp_min(0))}
    cores = os.cpu_count() or 1
    ways = [
        ("one thread, processor time", 1, time.process_time),
        (f"ours on all {cores} cores, wall time", cores, time.perf_counter),
    ]
    return [
        row(f"{kind}; {way}", *maps, count, clock)
        for way, count, clock in ways
        for kind, maps in kinds.items()
    ]


if __name__ == "__main__":
    for found in run():
        print(*(f"{key}: {value}" for key, value in found.items()), sep="\n")
