"""Exact leave-one-out influence of all pairs against its floor.

The floor is what no exact form can avoid: one Cholesky factorisation of the ridged kernel and one triangular solve
for the test kernels. Ours needs besides the diagonal of the inverse, which is as many operations as the factorisation,
and the second triangular solve: twice the operations of the floor, at every size, before a single check or copy.

    python -m benchmarks.influence
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, row, show, threads

from faultlines.estimators.influence import loo_influence
from faultlines.estimators.ntk import relu_ntk

N, TESTS, DIM, RIDGE, ROUNDS = 2000, 1000, 64, 0.1, 9


def run() -> list[dict]:
    """Return one row a comparison: name, ours_s, peer_s, ratio (ours / peer), target and ok."""
    x = torch.randn(N + TESTS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x[:N, 0].sign()
    kernel, test = relu_ntk(x[:N]), relu_ntk(x[N:], x[:N])
    ridged = kernel + RIDGE * torch.eye(N, dtype=torch.float64)

    def floor() -> None:
        torch.linalg.solve_triangular(torch.linalg.cholesky(ridged), test.T, upper=False)

    cases = {"ours": lambda: loo_influence(kernel, test, y, RIDGE), "floor": floor}
    ways = [
        ("one thread, processor time", 1, time.process_time),
        ("all cores", os.cpu_count() or 1, time.perf_counter),
    ]
    return [_row(words, cases, count, clock) for words, count, clock in ways]


def _row(words: str, cases: dict[str, Callable[[], object]], count: int, clock: Callable[[], float]) -> dict:
    with threads(count):
        times = interleaved(cases, ROUNDS, clock=clock)
    return row(
        f"leave-one-out / factor + solve, {words}",
        times["ours"],
        times["floor"],
        target=2.0,
        note=f"{N} training and {TESTS} test samples, float64; 2.00 of its operations",
    )


if __name__ == "__main__":
    show(run())
