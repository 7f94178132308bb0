"""What can be read from features: a linear classifier on frozen ones."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor


def linear_probe(
    features: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    *,
    folds: int = 2,
    regularization: float = 1.0,
    seed: int = 0,
) -> float:
    """Return the accuracy with which logistic regression reads a label from features, cross-validated.

    Features are standardised by those of the folds that the classifier is fitted on. For the accuracy to speak
    of the label and of nothing that comes with it, the samples should be balanced in whatever else they show.

    Args:
        features: One row a sample.
        labels: What to read.
        folds: Parts of the samples, stratified by label; each is read by a classifier fitted on the others.
        regularization: Inverse weight of the squared coefficients (scikit-learn's `C`).
        seed: Seed of the division into parts.

    Raises:
        ValueError: If shapes differ, a value is not finite, there is one label only, or a label has fewer
            samples than there are folds.

    Example:
        >>> x = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
        >>> linear_probe(x, (x[:, 0] > 0).long()) > 0.8
        True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; they must be [n, k] and [n]"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features holds values that are not finite")
    counts = labels.unique(return_counts=True)[1]
    if len(counts) < 2 or folds < 2 or int(counts.min()) < folds:
        raise ValueError(
            f"folds={folds} needs two labels or more with as many samples each; labels have {counts.tolist()}"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=regularization, max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(
            probe, features.detach().cpu().double().numpy(), labels.cpu().numpy(), cv=parts
        )
    return float(scores.mean())
