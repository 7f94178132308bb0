"""Choosing a hyper-parameter on a validation split, by a rule stated before it is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def select(
    candidates: Mapping[str, Mapping[str, Sequence[float]]],
    reference: Mapping[str, Sequence[float]],
    *,
    maximise: str,
    keep: str,
    within: float,
) -> str:
    """Return the candidate of best mean `maximise` among those whose mean `keep` is near the reference's.

    Args:
        candidates: For each candidate, validation results by name, one value a seed.
        reference: The same of the arm without the treatment.
        maximise: Which result to maximise.
        keep: Which result must not fall by more than `within` below the reference.
        within: The allowance.

    Returns:
        Name of the candidate; where none keeps near enough, the one that keeps nearest.

    Raises:
        ValueError: If there is no candidate, or a result is not finite (NaN would win every comparison it is
            first in).

    Example:
        >>> runs = {"weak": {"clean": [0.95], "robust": [0.3]}, "strong": {"clean": [0.7], "robust": [0.5]}}
        >>> select(runs, {"clean": [0.95]}, maximise="robust", keep="clean", within=0.01)
        'weak'
    """
    if not candidates:
        raise ValueError("candidates is empty; there is nothing to choose from")
    for name, results in candidates.items():
        for result in (maximise, keep):
            if not np.isfinite(results[result]).all():
                raise ValueError(f"{result} of candidate {name!r} holds values that are not finite")
    floor = np.mean(reference[keep]) - within
    kept = {name: np.mean(results[keep]) for name, results in candidates.items()}
    near = [name for name, value in kept.items() if value >= floor]
    if not near:
        return max(kept, key=kept.__getitem__)
    return max(near, key=lambda name: np.mean(candidates[name][maximise]))
