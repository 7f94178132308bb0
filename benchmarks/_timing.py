"""Timing of rivals in turn, for all benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def interleaved(
    cases: dict[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.process_time,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Time each case once a round, so that a busy moment of the machine falls on all of them alike.

    Args:
        cases: What to time.
        rounds: How often.
        clock: Processor time where one thread does the work and the machine is shared; `time.perf_counter`
            where other processes do some of it.
        warm: Whether each case runs once before; cases that take minutes need not.

    Returns:
        For each case its seconds, one a round.
    """
    times = {name: [] for name in cases}
    for case in cases.values() if warm else ():
        case()
    for turn in range(rounds):
        # whoever runs first meets the caches that the last one left: take turns at that too
        names = list(cases)[turn % len(cases) :] + list(cases)[: turn % len(cases)]
        for name in names:
            start = clock()
            cases[name]()
            times[name].append(clock() - start)
    return times


def ratio(ours: list[float], peer: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round, since a round shares the machine's mood."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch at one thread inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
