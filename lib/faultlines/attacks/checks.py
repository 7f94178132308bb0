"""Checks and defaults of what an attack is given, before it computes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def check_eps(eps: float, name: str = "eps", *, zero: bool = True) -> float:
    """Return a radius or step size as a float.

    Raises:
        ValueError: If it is not a finite number, or negative, or 0 where that is not allowed.
    """
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps) or eps < 0:
        raise ValueError(f"{name}={eps!r} must be a finite number, at least 0 (pixels run from 0 to 1)")
    if eps == 0 and not zero:
        raise ValueError(f"{name}={eps!r} must be above 0")
    return float(eps)


def check_count(n: int, name: str) -> int:
    """Return a number of steps or restarts.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name}={n!r} must be an integer, at least 1")
    return n


def check_call(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    """Check what every attack on predictions is called with: images, labels, and (as a warning) the model's mode.

    Raises:
        ValueError: If `x` or `y` is not as `check_batch` asks.
    """
    check_batch(x, y)
    warn_if_randomised(model, stacklevel=4)


def or_seeded(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator; without one a fresh one seeded with 0, so that the call repeats."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def check_batch(x: Tensor, y: Tensor) -> None:
    """Check images and labels.

    Raises:
        ValueError: If `x` is no floating-point batch in [0, 1], or `y` no int64 label for each sample.
    """
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(
            f"x has dtype {x.dtype} and shape {tuple(x.shape)}; it must be floating [batch, ...]"
        )
    if x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; the batch must not be empty")
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise ValueError(f"x runs from {low:g} to {high:g}; pixels must lie in [0, 1]")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise ValueError(
            f"y has dtype {y.dtype} and shape {tuple(y.shape)}; it must be torch.int64 of shape ({len(x)},)"
        )
    if y.device != x.device:
        raise ValueError(f"y is on {y.device}, x on {x.device}; they must be on one device")
    if y.min() < 0:
        raise ValueError(f"y has the label {int(y.min())}; labels start at 0")


def warn_if_randomised(model: Callable[[Tensor], Tensor], stacklevel: int = 3) -> None:
    """Warn when a model is in train mode with layers that behave differently there.

    Dropout randomises the gradient and the success check; batch normalisation mixes the samples of a batch
    and moves its running statistics with every forward pass. The mode itself is the caller's and is not changed.

    Args:
        model: What is attacked; a callable that is no module is taken to be deterministic.
        stacklevel: Frames up to the line that is blamed; 3 is the caller of the attack that calls this.
    """
    if not isinstance(model, nn.Module):
        return
    kinds = {
        type(layer).__name__
        for layer in model.modules()
        if layer.training
        and (
            isinstance(layer, _BatchNorm)
            or (isinstance(layer, _DropoutNd) and layer.p > 0)
            or (isinstance(layer, nn.MultiheadAttention) and layer.dropout > 0)
        )
    }
    if kinds:
        warnings.warn(
            f"model is in train mode with {', '.join(sorted(kinds))}: its output is randomised or depends on "
            "the rest of the batch, so this attack does not measure its robustness; call model.eval() first",
            stacklevel=stacklevel,
        )
