"""Checks of what an attribution is asked for, before it computes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def check_images(x: Tensor) -> None:
    """Check a batch of images.

    Raises:
        ValueError: If `x` is no floating-point `[batch, channel, height, width]` with at least one pixel.
    """
    if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}; floating [batch, channel, height, width] with "
            "at least one image and one pixel is needed"
        )


def check_count(n: int, name: str) -> None:
    """Check a number of steps or samples.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name}={n!r} must be an integer, at least 1")


def check_target(target: Int64[Tensor, " batch"] | int, x: Tensor) -> Int64[Tensor, " batch"]:
    """Return the class to explain of each image.

    Raises:
        ValueError: If `target` is neither an integer nor one int64 class an image, or negative.
    """
    if isinstance(target, int) and not isinstance(target, bool):
        target = torch.full((len(x),), target, device=x.device)
    if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.shape != x.shape[:1]:
        is_tensor = isinstance(target, Tensor)
        what = f"has dtype {target.dtype} and shape {tuple(target.shape)}" if is_tensor else f"is {target!r}"
        raise ValueError(f"target {what}; it must be one class, or torch.int64 of shape ({len(x)},)")
    if target.device != x.device:
        raise ValueError(f"target is on {target.device}, x on {x.device}; they must be on one device")
    if target.min() < 0:
        raise ValueError(f"target has the class {int(target.min())}; classes start at 0")
    return target


def target_logit(logits: Float[Tensor, "n classes"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the logit of each image's target.

    Raises:
        ValueError: If the model did not return logits `[n, classes]`, or a target is no class of it.
    """
    if logits.ndim != 2 or len(logits) != len(target):
        raise ValueError(
            f"model returned shape {tuple(logits.shape)} for {len(target)} images; "
            f"({len(target)}, classes) is needed"
        )
    if target.max() >= logits.shape[1]:
        raise ValueError(
            f"target has the class {int(target.max())}; this model has classes 0 to {logits.shape[1] - 1}"
        )
    return logits.gather(1, target[:, None]).squeeze(1)
