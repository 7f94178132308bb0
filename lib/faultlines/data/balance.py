"""Class-balanced, seeded and nested subsets."""

from __future__ import annotations

import numpy as np


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Order all samples so that every prefix is as class-balanced as the data allow.

    Each class is shuffled; then the classes take turns, in a seeded order, until they run out. A subset of
    `n` samples is the first `n` indices, so a smaller subset of the same seed is contained in a larger one.

    Args:
        labels: Class of each sample, `[n]`, integers.
        seed: Seed of the shuffles.

    Returns:
        A permutation of `range(n)`.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
        >>> order = balanced_order(labels, seed=0)
        >>> sorted(labels[order[:3]].tolist()), sorted(labels[order[:5]].tolist())
        ([0, 1, 2], [0, 0, 1, 1, 2])
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes = rng.permutation(int(labels.max()) + 1)  # classes[k]: the turn of class k
    turn = classes[labels[shuffled]]
    by_class = np.argsort(turn, kind="stable")
    counts = np.bincount(turn)
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[by_class] = np.concatenate([np.arange(count) for count in counts])
    return shuffled[np.lexsort((turn, rounds))]


def subset(labels: np.ndarray, n: int | None, seed: int, argument: str) -> np.ndarray | slice:
    """Return the indices of a class-balanced subset, or everything in its own order when `n` is None.

    Args:
        labels: Class of each sample, `[n]`.
        n: Samples wanted.
        seed: Seed of the subset.
        argument: Name of `n` for the error.

    Raises:
        ValueError: If `n` is no positive integer or exceeds what there is.
    """
    if n is None:
        return slice(None)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= len(labels):
        raise ValueError(f"{argument}={n!r} must be an integer from 1 to {len(labels)}, or None for all")
    return balanced_order(labels, seed)[:n]
