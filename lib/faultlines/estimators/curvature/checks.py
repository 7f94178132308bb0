"""Checks of what a curvature is asked of, before it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def check_mode(model: Callable[[Tensor], Tensor]) -> None:
    """Refuse a network whose function changes with the batch or from pass to pass; other callables are trusted.

    Raises:
        ValueError: If batch normalisation or dropout is in training mode.
    """
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        mixes = isinstance(module, nn.modules.batchnorm._NormBase) or (
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        )
        if module.training and mixes:
            raise ValueError(f"{name} ({type(module).__name__}) is in training mode; call model.eval() first")


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Check a batch of inputs.

    Raises:
        ValueError: If it is empty, not `[batch, ...]`, not float32 or float64, or not as long as `y`.
    """
    if x.ndim < 2 or 0 in x.shape or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}; float32 or float64 [batch, ...] with at least one "
            "sample and one entry is needed"
        )
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"x has {len(x)} samples and y {len(y) if y.ndim else 'no axis'}; one target a sample is needed"
        )


def check_targets(logits: Tensor, x: Tensor, y: Tensor) -> None:
    """Refuse targets that are no logits.

    Raises:
        ValueError: If shapes, dtype or values do not fit.
    """
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(
            f"the model returns shape {tuple(logits.shape)} for a batch of {len(x)}; [batch, classes] is needed"
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(
            f"y has shape {tuple(y.shape)} and dtype {y.dtype}; one int64 for each of {len(x)} samples is needed"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"y holds targets from {low} to {high}; the model's logits are 0 to {logits.shape[1] - 1}"
        )
