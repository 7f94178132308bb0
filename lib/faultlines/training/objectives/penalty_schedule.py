"""Weight of an explanation penalty through a run."""

from __future__ import annotations


def penalty_weight(coefficient: float, progress: float, *, warmup: float, ramp: float) -> float:
    """Return 0 during the warm-up, then a linear rise to `coefficient`: maps of an untrained network are noise.

    Args:
        coefficient: Final weight.
        progress: Share of the run that is done.
        warmup: Share of the run with weight 0.
        ramp: Share of the run over which the weight then rises.

    Example:
        >>> [penalty_weight(2.0, t / 10, warmup=0.2, ramp=0.4) for t in (0, 2, 4, 9)]
        [0.0, 0.0, 1.0, 2.0]
    """
    if progress < warmup:
        return 0.0
    return coefficient * (min((progress - warmup) / ramp, 1.0) if ramp else 1.0)
