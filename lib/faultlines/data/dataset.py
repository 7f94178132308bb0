"""A data set in memory, what `load` returns; class-balanced, seeded and nested parts of it; tasks cut out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


class Split(NamedTuple):
    """Images and their classes; unpacks as `x, y`.

    Attributes:
        x: Images, `[n, channel, height, width]` in [0, 1].
        y: Classes, `[n]`.
    """

    x: Float[Tensor, "n channel height width"]
    y: Int64[Tensor, " n"]

    def to(self, device: str | torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: The name it was loaded by.
        x_train: Training images, float32 in [0, 1]; models normalise for themselves.
        y_train: Training classes.
        x_test: Test images.
        y_test: Test classes.
        classes: Class names; `classes[y]` names a sample.
    """

    name: str
    x_train: Float[Tensor, "train channel height width"]
    y_train: Int64[Tensor, " train"]
    x_test: Float[Tensor, "test channel height width"]
    y_test: Int64[Tensor, " test"]
    classes: tuple[str, ...]

    @property
    def train(self) -> Split:
        """The training images and classes."""
        return Split(self.x_train, self.y_train)

    @property
    def test(self) -> Split:
        """The test images and classes."""
        return Split(self.x_test, self.y_test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channel, height and width."""
        channel, height, width = self.x_train.shape[1:]
        return channel, height, width

    def hold_out(self, size: int | float, seed: int = 0) -> tuple[Split, Split]:
        """Split the training set into a part to train on and a class-balanced part to choose by.

        Args:
            size: Validation samples as an integer, or their share of the training set as a float in (0, 1).
            seed: Seed of the choice.

        Returns:
            `(train, validation)`: disjoint, together the whole training set; each in its stored order.

        Raises:
            ValueError: If either part would be empty.

        Example:
            >>> from faultlines.data import load
            >>> train, validation = load("digits").hold_out(200, seed=1)
            >>> len(train.y), validation.y.bincount().tolist()
            (1097, [20, 20, 20, 20, 20, 20, 20, 20, 20, 20])
        """
        total = len(self.y_train)
        n = round(size * total) if isinstance(size, float) and 0 < size < 1 else size
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n < total:
            raise ValueError(
                f"size={size!r} must be an integer from 1 to {total - 1}, or a float in (0, 1) that leaves "
                "neither part empty"
            )
        chosen = np.zeros(total, dtype=bool)
        chosen[balanced_order(self.y_train.cpu().numpy(), seed)[:n]] = True
        held = torch.from_numpy(chosen).to(self.y_train.device)
        return Split(self.x_train[~held], self.y_train[~held]), Split(self.x_train[held], self.y_train[held])

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its tensors on `device`."""
        tensors = {
            name: getattr(self, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")
        }
        return replace(self, **tensors)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.image_shape))
        return (
            f"Dataset({self.name!r}: {len(self.y_train)} train, {len(self.y_test)} test, images {shape}, "
            f"{len(self.classes)} classes)"
        )


def check_count(name: str, value: object, least: int = 1, also: str = "") -> int:
    """Return a whole number of at least `least`; True is none.

    Args:
        name: Of the argument, for the error.
        value: What was given.
        least: The least that is allowed.
        also: What else is, in words.

    Raises:
        ValueError: If it is another.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}{also}")
    return value


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
