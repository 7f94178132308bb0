"""`load`: a data set by name, from wherever it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from faultlines.data.arrays import Arrays, check
from faultlines.data.balance import subset
from faultlines.data.catalogue import KNOWN, KnownSet
from faultlines.data.cifar import find_cifar, read_cifar_folder
from faultlines.data.dataset import Dataset
from faultlines.data.digits import read_digits
from faultlines.data.download import download as fetch
from faultlines.data.idx import find_idx, read_idx_folder
from faultlines.data.npz import read_npz
from faultlines.data.root import data_root


def load(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    n_train: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> Dataset:
    """Load a data set, or a class-balanced part of it.

    `digits` comes with scikit-learn. Any other name is looked for as `<root>/<name>.npz` (arrays `x_train`,
    `y_train`, `x_test`, `y_test`; images uint8 `[n, h, w]` or `[n, h, w, c]`; an optional `classes`), then in
    torchvision's layout under `root`, then downloaded with torchvision. Any `.npz` of that form is a data
    set, under any name: bring your own.

    Args:
        name: `"digits"`, `"fashion_mnist"`, `"mnist"`, `"cifar10"`, `"cifar100"`, or the stem of an `.npz`.
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.
        n_train: Training images to keep, balanced over the classes; all by default, in stored order.
        n_test: Test images to keep.
        seed: Seed of the two choices. A smaller part of one seed lies within a larger one.
        download: Whether to try the network last.

    Returns:
        Images float32 in [0, 1], `[n, channel, height, width]`, with int64 classes.

    Raises:
        ValueError: If the name is unknown, a file does not hold what it should, or a size is out of range.
        FileNotFoundError: If a known data set is not there and cannot be downloaded.

    Example:
        >>> load("digits", n_train=100, n_test=50)
        Dataset('digits': 100 train, 50 test, images 1 x 8 x 8, 10 classes)
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"name={name!r} must be a plain name; known: {', '.join(KNOWN)}")
    if name == "digits":
        x_train, y_train, x_test, y_test = read_digits()
        classes = KNOWN[name].classes
    else:
        x_train, y_train, x_test, y_test, classes = _read(name, data_root(root), download)
    # chosen before the conversion to float, which takes four times the memory
    train = subset(y_train, n_train, seed, "n_train")
    test = subset(y_test, n_test, seed, "n_test")
    return Dataset(
        name,
        _images(x_train[train]),
        torch.from_numpy(y_train[train]),
        _images(x_test[test]),
        torch.from_numpy(y_test[test]),
        classes,
    )


def locate(name: str, root: Path) -> tuple[str, Path] | None:
    """Return how and where a data set lies on disk, or None.

    Args:
        name: Name of the data set, not an embedded one.
        root: The data folder.

    Returns:
        `("npz", file)` or `("torchvision", folder)`.
    """
    if (path := root / f"{name}.npz").is_file():
        return "npz", path
    known = KNOWN.get(name)
    if known is not None:
        folder = root / known.folder
        found = find_idx(folder) if known.form == "idx" else find_cifar(folder, name)
        if found is not None:
            return "torchvision", folder
    return None


def how_to_get(name: str, root: Path) -> str:
    """Say the ways in which a data set can come to be under `root`."""
    known = KNOWN.get(name)
    npz = f"put {root / name}.npz there (uint8 x_train, y_train, x_test, y_test)"
    if known is None:
        return npz
    if known.form == "embedded":
        return "comes with scikit-learn"
    return (
        f"{npz}; or torchvision's files in {root / known.folder}; or let faultlines.data.load({name!r}) "
        f"download them ({known.download_mb} MB; needs torchvision and a network)"
    )


def _read(name: str, root: Path, download: bool) -> Arrays:
    known = KNOWN.get(name)
    found = locate(name, root)
    if found is None and known is None:
        raise ValueError(f"name={name!r} is no data set: known are {', '.join(KNOWN)}. To bring your own, "
                         f"{how_to_get(name, root)}")  # fmt: skip
    if found is None:
        reason = "downloading was switched off"
        if download:
            try:
                fetch(known, root)
            except (ImportError, OSError, RuntimeError) as error:
                reason = f"the download failed: {error}"
        found = locate(name, root)
        if found is None:
            raise FileNotFoundError(
                f"data set {name!r} is not under {root} ({reason}). Three ways to get it: "
                f"{how_to_get(name, root)}. The folder is the argument `root`, else the environment "
                "variable FAULTLINES_DATA"
            )
    way, path = found
    if way == "npz":
        arrays = read_npz(path)
    elif known.form == "idx":
        arrays = read_idx_folder(path)
    else:
        arrays = read_cifar_folder(path, name)
    return check(arrays if known is None else _as_known(arrays, known, path), path)


def _as_known(arrays: Arrays, known: KnownSet, path: Path) -> Arrays:
    """Give a data set of a known name its class names, after making sure that it can be that set."""
    channel, height, width = known.image_shape
    allowed = [(height, width, channel)] + [(height, width)] * (channel == 1)
    if arrays.x_train.shape[1:] not in allowed:
        raise ValueError(
            f"{path}: images of {known.name} are {allowed[-1]}, these are {arrays.x_train.shape[1:]}"
        )
    if arrays.classes is not None and len(arrays.classes) != len(known.classes):
        raise ValueError(
            f"{path}: {known.name} has {len(known.classes)} classes, the file {len(arrays.classes)}"
        )
    return arrays._replace(classes=arrays.classes or known.classes)


def _images(x: np.ndarray) -> Tensor:
    """Turn stored images into float32 `[n, channel, height, width]` in [0, 1]."""
    x = x[..., None] if x.ndim == 3 else x
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32))
    return images / 255 if x.dtype == np.uint8 else images
