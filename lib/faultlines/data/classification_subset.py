"""A classification task cut out of a data set: chosen classes, chosen sizes, double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from faultlines.data.dataset import Dataset, balanced_order


class Task(NamedTuple):
    """Training and test images with their classes; unpacks as `x, y, x_test, y_test`.

    Attributes:
        x: Training images, `[n, channel, height, width]` in [0, 1].
        y: Classes, 0 to `classes - 1` in the order they were asked for.
        x_test: Test images.
        y_test: Their classes.
    """

    x: Float64[Tensor, "n channel height width"]
    y: Int64[Tensor, " n"]
    x_test: Float64[Tensor, "t channel height width"]
    y_test: Int64[Tensor, " t"]


def make_task(
    data: Dataset,
    classes: Sequence[int] | None,
    *,
    n_train: int,
    n_test: int,
    seed: int,
    dtype: torch.dtype = torch.float64,
) -> Task:
    """Draw a class-balanced task; without duplicates and blank images, which have no place in a kernel.

    Args:
        data: The data set.
        classes: Its classes to tell apart, at least two; None takes all.
        n_train: Training images.
        n_test: Test images.
        seed: Seed of the choice of both.
        dtype: Of the images: float64 for kernels, float32 for networks.

    Raises:
        ValueError: If a class is not there or repeats, or there are too few images.

    Example:
        >>> from faultlines.data import load
        >>> task = make_task(load("digits"), (3, 8), n_train=20, n_test=10, seed=0)
        >>> task.x.shape, task.y.bincount().tolist()
        (torch.Size([20, 1, 8, 8]), [10, 10])
    """
    classes = list(range(len(data.classes))) if classes is None else list(classes)
    if (
        len(classes) < 2
        or len(set(classes)) < len(classes)
        or not set(classes) <= set(range(len(data.classes)))
    ):
        raise ValueError(
            f"classes={classes!r} must be at least two different ones of 0 to {len(data.classes) - 1}"
        )
    x, y = _draw(data.x_train, data.y_train, classes, n_train, seed, "n_train")
    x_test, y_test = _draw(data.x_test, data.y_test, classes, n_test, seed, "n_test")
    return Task(x.to(dtype), y, x_test.to(dtype), y_test)


def _draw(x: Tensor, y: Tensor, classes: list[int], n: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    label = torch.full((int(y.max()) + 1,), -1)
    label[classes] = torch.arange(len(classes))
    where = (label[y] >= 0).nonzero().flatten()
    order = where[torch.from_numpy(balanced_order(label[y[where]].numpy(), seed))]
    # look at a few more than asked for, as some may be duplicates or blank
    order = order[: n + n // 10 + 20]
    rows = x[order].flatten(1)
    _, first = torch.unique(rows, dim=0, return_inverse=True)
    seen: set[int] = set()
    keep: list[int] = []
    for i, group in enumerate(first.tolist()):
        if group not in seen and bool(rows[i].any()):
            keep.append(i)
        seen.add(group)
    keep = keep[:n]
    if len(keep) < n or n < len(classes):
        raise ValueError(
            f"{name}={n!r}: of classes {classes} there are {len(where)} images, {len(keep)} of those looked at are "
            "usable (different, not blank)"
        )
    chosen = order[keep]
    return x[chosen], label[y[chosen]]
