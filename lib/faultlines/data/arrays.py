"""The form in which every reader hands a data set on: uint8 arrays, checked once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """A data set as stored.

    Attributes:
        x_train: Training images, uint8 `[n, height, width]` or `[n, height, width, channel]`.
        y_train: Training classes, integers `[n]`.
        x_test: Test images.
        y_test: Test classes.
        classes: Class names, or None where the files do not tell.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...] | None = None


def check(arrays: Arrays, source: object) -> Arrays:
    """Check images and labels, and fill in the class names where there are none.

    Args:
        arrays: What was read.
        source: Where it was read from, for the error.

    Returns:
        The same images; labels as int64; `classes` set.

    Raises:
        ValueError: If a dtype, shape or label is not as `Arrays` says.
    """
    labels = {}
    for part in ("train", "test"):
        x, y = getattr(arrays, f"x_{part}"), getattr(arrays, f"y_{part}")
        if x.dtype != np.uint8:
            raise ValueError(f"{source}: x_{part} has dtype {x.dtype}; images must be uint8, 0 to 255")
        if x.ndim not in (3, 4) or 0 in x.shape:
            raise ValueError(
                f"{source}: x_{part} has shape {x.shape}; it must be [n, height, width] or "
                "[n, height, width, channel], none of them 0"
            )
        if x.ndim == 4 and x.shape[3] > 4:
            raise ValueError(
                f"{source}: x_{part} has shape {x.shape}, so {x.shape[3]} channels; "
                "the channel comes last, 1 to 4"
            )
        if y.dtype.kind not in "iu":
            raise ValueError(f"{source}: y_{part} has dtype {y.dtype}; labels must be integers")
        if y.shape != x.shape[:1]:
            raise ValueError(f"{source}: y_{part} has shape {y.shape}; x_{part} asks for ({len(x)},)")
        labels[part] = y.astype(np.int64)
    if arrays.x_train.shape[1:] != arrays.x_test.shape[1:]:
        raise ValueError(
            f"{source}: training images are {arrays.x_train.shape[1:]}, test images {arrays.x_test.shape[1:]}"
        )
    classes = arrays.classes
    if classes is None:
        present = np.unique(labels["train"])
        if present[0] != 0 or present[-1] != len(present) - 1:
            raise ValueError(
                f"{source}: y_train holds the labels {present[:10].tolist()}"
                f"{' ...' if len(present) > 10 else ''}; "
                "they must be 0 to k - 1 with none left out (or give the class names as `classes`)"
            )
        classes = tuple(str(k) for k in present)
    for part, y in labels.items():
        if y.min() < 0 or y.max() >= len(classes):
            raise ValueError(
                f"{source}: y_{part} has labels from {y.min()} to {y.max()}; "
                f"{len(classes)} classes allow 0 to {len(classes) - 1}"
            )
    return Arrays(arrays.x_train, labels["train"], arrays.x_test, labels["test"], classes)
