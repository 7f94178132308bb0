"""Which classes a targeted attack tries, most likely ones first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def likeliest_others(
    logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"], count: int
) -> Int64[Tensor, "batch count"]:
    """Return the `count` classes of largest logit beside `y`, in falling order; fewer where there are fewer.

    Example:
        >>> likeliest_others(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
        tensor([[2, 1]])
    """
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).topk(min(count, logits.shape[1] - 1), dim=1).indices


def together(done: int, samples: int, batch_size: int) -> int:
    """Return how many targets to try at once after `done` of them.

    The likeliest one goes first and alone, since most samples that fall do so there; of the others as many
    as fit into a batch, since a few samples alone leave a machine idle.

    Example:
        >>> together(0, 10, 256), together(1, 10, 256), together(1, 1000, 256)
        (1, 25, 1)
    """
    return max(batch_size // samples, 1) if done else 1


def checked_logits(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, batch * dims], y: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch classes"]:
    """Return the logits at clean samples.

    Raises:
        ValueError: If they are not `[batch, classes]` and finite, or a label has no logit.
    """
    with torch.no_grad():
        logits = model(x)
    check_logits(logits, y)
    return logits


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Check what a model returned for the samples of labels `y`.

    Raises:
        ValueError: If it is not `[batch, classes]` and finite, or a label has no logit.
    """
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(
            f"model returned logits of shape {tuple(logits.shape)}; it must be ({len(y)}, classes)"
        )
    if not logits.isfinite().all():
        raise ValueError("model returned logits that are not finite on the first batch")
    if y.max() >= logits.shape[1]:
        raise ValueError(
            f"y has labels up to {int(y.max())}; {logits.shape[1]} logits allow 0 to {logits.shape[1] - 1}"
        )
