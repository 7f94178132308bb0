"""`load`: a data set by name, from wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from faultlines.data.arrays import Arrays, check, read_npz
from faultlines.data.catalogue import KNOWN, KnownSet, check_name, data_root, how_to_get, locate, unknown
from faultlines.data.dataset import Dataset, balanced_order, subset
from faultlines.data.torchvision_layout import BATCHES, read_cifar_folder, read_idx_folder
from faultlines.data.torchvision_layout import download as fetch

DIGITS_TEST_SIZE = 500
DIGITS_SPLIT_SEED = 2507  # part of the data set: changing it changes every published number on digits


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
    set, under any name: bring your own. MedMNIST's array names, labels `[n, 1]`, floats in [0, 1] and channels first
    are understood where nothing else can be meant.

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
    check_name(name)
    if name == "digits":
        x_train, y_train, x_test, y_test = read_digits()
        classes: tuple[str, ...] | None = KNOWN[name].classes
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
        classes or (),
    )


def _read(name: str, root: Path, download: bool) -> Arrays:
    known = KNOWN.get(name)
    found = locate(name, root)
    if found is None and known is None:
        raise unknown(name, root)
    if found is None and known is not None:
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
    assert found is not None
    way, path = found
    if way == "npz":
        arrays = read_npz(path)
    else:
        arrays = read_idx_folder(path) if name not in BATCHES else read_cifar_folder(path, name)
    return check(arrays, path) if known is None else _check_known(arrays, known, path)


def _check_known(arrays: Arrays, known: KnownSet, path: Path) -> Arrays:
    """Check a data set of a known name, after making sure that it can be that set."""
    arrays = check(arrays, path, known.classes)
    channel, height, width = known.image_shape
    allowed = [(height, width, channel)] + [(height, width)] * (channel == 1)
    if arrays.x_train.shape[1:] not in allowed:
        raise ValueError(
            f"{path}: images of {known.name} are {allowed[-1]}, these are {arrays.x_train.shape[1:]}"
        )
    if arrays.classes is None or len(arrays.classes) != len(known.classes):
        raise ValueError(
            f"{path}: {known.name} has {len(known.classes)} classes, the file {len(arrays.classes or ())}"
        )
    return arrays


def _images(x: np.ndarray) -> Tensor:
    """Turn stored images into float32 `[n, channel, height, width]` in [0, 1]."""
    x = x[..., None] if x.ndim == 3 else x
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32))
    return images / 255 if x.dtype == np.uint8 else images


def read_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return `x_train, y_train, x_test, y_test` with 1,297 and 500 (50 a class) images of 8 x 8 pixels.

    Pixels count the set dots of a 4 x 4 block (E. Alpaydin and C. Kaynak 1998), so 0 to 16; they are divided
    by 16 here. The split is fixed.

    Returns:
        Images float32 `[n, 8, 8]` in [0, 1], and int64 classes `[n]`.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    labels = labels.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[balanced_order(labels, DIGITS_SPLIT_SEED)[:DIGITS_TEST_SIZE]] = True
    return images[~test], labels[~test], images[test], labels[test]
