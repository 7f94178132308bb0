"""A data set as arrays: checked once, whatever reader it comes from, and read from the `.npz` that a user brings."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Container
from lzma import LZMAError
from pathlib import Path
from typing import NamedTuple

import numpy as np

KEYS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}
CHANNELS = range(1, 5)

# what a damaged, encrypted or oddly packed archive makes zipfile and numpy raise
_UNREADABLE = (
    ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError, KeyError, OverflowError, RuntimeError,
    OSError, MemoryError, zlib.error, LZMAError,
)  # fmt: skip


class Arrays(NamedTuple):
    """A data set as stored.

    Attributes:
        x_train: Training images, `[n, height, width]` or `[n, height, width, channel]`: uint8, or floats in [0, 1].
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


class Header(NamedTuple):
    """What an array says of itself before its values.

    Attributes:
        shape: Its shape.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def shown(value: object, most: int = 60) -> str:
    """Return how a value prints, cut in the middle where that is long.

    Example:
        >>> shown("a" * 1000, 9)
        "'aa...aa'"
    """
    text = repr(value)
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def check(arrays: Arrays, source: object, classes: tuple[str, ...] | None = None) -> Arrays:
    """Check images and labels, bring them into one form, and fill in the class names where there are none.

    Accepted besides the stored form, since nothing else can be meant: labels `[n, 1]`, as Keras and MedMNIST keep
    them; floats in [0, 1]; and images `[n, channel, height, width]` whose last axis is too long for channels.

    Args:
        arrays: What was read.
        source: Where it was read from, for the error.
        classes: Class names where the file has none; by default the labels themselves, which then must be
            0 to k - 1.

    Returns:
        Images as uint8 or float32, channels last; labels as int64 `[n]`; `classes` set.

    Raises:
        ValueError: If a dtype, shape or label cannot be read so; the message says how to convert it.
    """
    images, labels = {}, {}
    for part in ("train", "test"):
        images[part] = _images(getattr(arrays, f"x_{part}"), f"{source}: x_{part}")
        labels[part] = _labels(getattr(arrays, f"y_{part}"), len(images[part]), f"{source}: y_{part}", part)
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise ValueError(
            f"{source}: training images are {images['train'].shape[1:]}, test images {images['test'].shape[1:]}"
        )
    classes = classes if arrays.classes is None else arrays.classes
    if classes is None:
        present = np.unique(labels["train"])
        if present[0] != 0 or present[-1] != len(present) - 1:
            raise ValueError(
                f"{source}: y_train holds the labels {present[:10].tolist()}"
                f"{' ...' if len(present) > 10 else ''}; "
                "they must be 0 to k - 1 with none left out: numpy.searchsorted(numpy.unique(y_train), y) "
                "numbers them so (or give a name for every number from 0 as `classes`)"
            )
        classes = tuple(str(k) for k in present)
    for part, y in labels.items():
        if y.min() < 0 or y.max() >= len(classes):
            raise ValueError(
                f"{source}: y_{part} has labels from {y.min()} to {y.max()}; "
                f"{len(classes)} classes allow 0 to {len(classes) - 1}"
            )
    return Arrays(images["train"], labels["train"], images["test"], labels["test"], classes)


def channels_first(shape: tuple[int, ...], name: str) -> bool:
    """Tell from their shape whether images keep their channels first.

    Args:
        shape: Shape of the array.
        name: Its name for the error.

    Raises:
        ValueError: If it is no shape of images, or both readings are possible.

    Example:
        >>> channels_first((10, 3, 32, 32), "x"), channels_first((10, 32, 32, 3), "x"), channels_first((10, 8, 8), "x")
        (True, False, False)
    """
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(
            f"{name} has shape {shape}; it must be [n, height, width] or [n, height, width, channel], none of them 0"
        )
    if len(shape) == 3:
        return False
    _, first, height, last = shape
    square = first == height != last or first == height == last == 1
    if first in CHANNELS and last in CHANNELS and not square:
        raise ValueError(
            f"{name} has shape {shape}: channels may come first or last, which images of up to 4 pixels do not tell. "
            "The channel comes last (x.transpose(0, 2, 3, 1)); a single one can be left out"
        )
    if last not in CHANNELS and first not in CHANNELS:
        raise ValueError(
            f"{name} has shape {shape}: {first} or {last} channels; it must be 1 to 4, the channel last"
        )
    return last not in CHANNELS


def _images(x: np.ndarray, name: str) -> np.ndarray:
    x = x.transpose(0, 2, 3, 1) if channels_first(x.shape, name) else x
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "f" and x.min() >= 0 and x.max() <= 1:  # not so where one is NaN
        return x.astype(np.float32)
    lowest, highest = (x.min(), x.max()) if x.dtype.kind in "iuf" else (0, 0)
    values = f" and values from {float(lowest)!r} to {float(highest)!r}" if x.dtype.kind in "iuf" else ""
    if x.dtype.kind == "b":
        how = "255 * x.astype(numpy.uint8) makes them so"
    elif np.isnan(lowest):
        how = "numpy.nan_to_num(x) puts 0 where x is not a number"
    elif -1 <= lowest < 0 and highest <= 1:
        how = "(x + 1) / 2 takes values in [-1, 1] there"
    elif x.dtype.kind == "f" and lowest >= 0 and highest <= 1 + 1e-3:
        how = "x.clip(0, 1) takes off what rounding has added"
    elif x.dtype.kind in "iuf" and lowest >= 0 and highest <= 255:
        how = "where the values are whole numbers up to 255, x.astype(numpy.uint8) makes them so"
    else:
        how = (
            "(x - x.min()) / (x.max() - x.min()) takes them there, by one minimum and maximum for both parts"
        )
    raise ValueError(
        f"{name} has dtype {x.dtype}{values}; images must be uint8, 0 to 255, or floats in [0, 1]: {how}"
    )


def _labels(y: np.ndarray, n: int, name: str, part: str) -> np.ndarray:
    if y.ndim == 2 and len(y) == n and y.shape[1] > 1 and y.dtype.kind in "iufb":
        one_hot = bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())
        how = (
            "y.argmax(axis=1) turns its one-hot rows into classes"
            if one_hot
            else "a sample has one class here, and its rows are not one-hot: choose a column, y[:, 0], say"
        )
        raise ValueError(f"{name} has shape {y.shape}; x_{part} asks for ({n},): {how}")
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.dtype.kind not in "iu":
        how = (
            "y.astype(int), if they are whole"
            if y.dtype.kind in "fb"
            else "numpy.unique(y, return_inverse=True) returns the names, for `classes`, and integers"
        )
        raise ValueError(f"{name} has dtype {y.dtype}; labels must be integers: {how}")
    if y.shape != (n,):
        how = ": y.ravel() makes it so" if y.size == n else ""
        raise ValueError(f"{name} has shape {y.shape}; x_{part} asks for ({n},){how}")
    if y.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds the label {y.max()}; a class is a number from 0 to k - 1")
    return y.astype(np.int64)


def read_npz(path: Path) -> Arrays:
    """Read `x_train, y_train, x_test, y_test` and, where there is one, `classes` (strings).

    MedMNIST's names (`train_images`, `train_labels`, `test_images`, `test_labels`) will do as well; its validation
    set is left alone. Pickled objects in the file are refused, not loaded.

    Args:
        path: The `.npz` file.

    Returns:
        The arrays, not yet checked (see `check`).

    Raises:
        ValueError: If the file is no `.npz`, is damaged, encrypted or larger than memory, an array is missing, or
            one holds pickled objects.
    """
    headers = npz_headers(path)
    if missing := [key for key in KEYS if key not in headers]:
        found = shown(", ".join(headers) or "nothing", 200).strip("'")
        raise ValueError(f"{_cannot(path)}: it lacks {', '.join(missing)}; found {found}. {_FORM}")
    needed = sum(math.prod(headers[key].shape) * headers[key].dtype.itemsize for key in KEYS)
    if needed > (memory := _memory()):
        raise ValueError(
            f"{_cannot(path)}: its arrays take {needed / 2**30:,.0f} GB, this machine has {memory / 2**30:,.0f} GB"
        )
    arrays = _read_members(path, [*KEYS, *(["classes"] if "classes" in headers else [])])
    names = arrays.pop("classes", None)
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise ValueError(f"{path}: classes has dtype {names.dtype}; it must be a list of strings")
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    return Arrays(x_train, y_train, x_test, y_test, None if names is None else tuple(names.tolist()))


def npz_headers(path: Path) -> dict[str, Header]:
    """Return what the arrays of an `.npz` say of themselves, without reading their values.

    Returns:
        Headers by name; MedMNIST's names as `read_npz` understands them.

    Raises:
        ValueError: If the file is no `.npz` of plain arrays, or an array is not as long as it says.
    """
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    length = math.prod(shape) * dtype.itemsize
                    if not dtype.hasobject and file.tell() + length != member.file_size:
                        raise ValueError(f"{member.filename} says it holds {length} bytes, which it does not")
                    headers[member.filename.removesuffix(".npy")] = Header(shape, dtype)
    except _UNREADABLE as error:
        raise ValueError(f"{_cannot(path)}: {_said(error)}. {_FORM}") from error
    return {_name(key, headers): header for key, header in headers.items()}


def npz_image_shape(headers: dict[str, Header], path: Path) -> tuple[int, int, int]:
    """Return channel, height and width of the images of an `.npz`.

    Raises:
        ValueError: If there are none, or they are no images.
    """
    if "x_train" not in headers:
        raise ValueError(f"{_cannot(path)}: it lacks x_train. {_FORM}")
    shape = headers["x_train"].shape
    first = channels_first(shape, f"{path}: x_train")
    _, *rest = shape
    channel, height, width = rest if first else (*rest[2:], *rest[:2]) if len(rest) == 3 else (1, *rest)
    return channel, height, width


def npz_n_classes(headers: dict[str, Header], path: Path) -> int:
    """Return the number of classes of an `.npz`, for which at most its training labels are read.

    Raises:
        ValueError: If they cannot be.
    """
    if "classes" in headers:
        return math.prod(headers["classes"].shape)
    if "y_train" not in headers:
        raise ValueError(f"{_cannot(path)}: it lacks y_train. {_FORM}")
    return len(np.unique(_read_members(path, ["y_train"])["y_train"]))


_FORM = "It must be an .npz of plain arrays x_train, y_train, x_test, y_test (numpy.savez)"


def _read_members(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        # opened here, since numpy itself leaves the file open when it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            given = {_name(key, stored.files): key for key in stored.files}
            return {name: stored[given[name]] for name in names}
    except _UNREADABLE as error:
        raise ValueError(f"{_cannot(path)}: {_said(error)}. {_FORM}") from error


def _name(key: str, present: Container[str]) -> str:
    """Return our name of an array, unless the file has both."""
    ours = MEDMNIST.get(key, key)
    return key if ours != key and ours in present else ours


def _cannot(path: Path) -> str:
    return f"{path} cannot be read as a data set"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
