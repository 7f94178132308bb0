"""Timing of rivals in turn, for all benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

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


def row(
    name: str,
    ours: list[float],
    peer: list[float],
    *,
    target: float | None = None,
    words: str = "",
    also: bool = True,
    note: str = "",
) -> dict:
    """Return the row of a comparison.

    Args:
        name: What is compared.
        ours: Our seconds, one a round.
        peer: The peer's or the floor's, of the same rounds.
        target: Most that the ratio may be; None where nothing is asked.
        words: The target as it is shown, where a number does not say it.
        also: Whether what else is asked came out, the same answer for one.
        note: What the figures were measured on.
    """
    measured = ratio(ours, peer)
    return {
        "name": name,
        "ours_s": statistics.median(ours),
        "peer_s": statistics.median(peer),
        "ratio": measured,
        "target": words or target,
        "ok": None if target is None else measured <= target and also,
        "note": note,
    }


def faster(
    name: str, ours: list[float], peer: list[float], *, least: float | None, words: str, also: bool, note: str
) -> dict:
    """Return the row of a comparison whose ratio says how many times faster ours is.

    Args:
        name: What is compared.
        ours: Our seconds, one a round.
        peer: The peer's, of the same rounds.
        least: Least that the ratio may be; None where only `also` is asked.
        words: The target as it is shown.
        also: Whether what else is asked came out.
        note: What the figures were measured on.
    """
    measured = ratio(peer, ours)
    return {
        "name": name,
        "ours_s": statistics.median(ours),
        "peer_s": statistics.median(peer),
        "ratio": measured,
        "target": words,
        "ok": also and (least is None or measured >= least),
        "note": note,
    }


def show(rows: Iterable[dict]) -> None:
    """Print rows, each once it is there."""
    for found in rows:
        seconds = f"{found['ours_s']:9.4f} s {found['peer_s']:9.4f} s  x{found['ratio']:.3f}"
        judged = {True: "ok", False: "MISSED", None: ""}[found.get("ok")]
        print(
            f"{found['name']:<50} {seconds}  target {found['target'] or 'none'}  {judged}  {found.get('note', '')}",
            flush=True,
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Hold torch at so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Hold torch at one thread inside the block."""
    return threads(1)
