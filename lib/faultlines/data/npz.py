"""Data sets from one `.npz` file: the way to bring your own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from faultlines.data.arrays import Arrays

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Arrays:
    """Read `x_train, y_train, x_test, y_test` and, where there is one, `classes` (strings).

    Pickled objects in the file are refused, not loaded.

    Args:
        path: The `.npz` file.

    Returns:
        The arrays, not yet checked (see `faultlines.data.arrays.check`).

    Raises:
        ValueError: If the file is no `.npz`, an array is missing, or one holds pickled objects.
    """
    try:
        # opened here, since numpy itself leaves the file open when it is no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an .npz archive")
            missing = [key for key in KEYS if key not in stored]
            if missing:
                raise ValueError(
                    f"it lacks {', '.join(missing)}; found {', '.join(stored.files) or 'nothing'}"
                )
            arrays = {key: stored[key] for key in KEYS}
            names = stored.get("classes")
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read as a data set: {error}. It must be an .npz of plain arrays "
            "x_train, y_train, x_test, y_test (numpy.savez)"
        ) from error
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise ValueError(f"{path}: classes has dtype {names.dtype}; it must be a list of strings")
    return Arrays(**arrays, classes=None if names is None else tuple(names.tolist()))


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays in an `.npz` from their headers alone, without reading the images.

    Raises:
        ValueError: If the file is no `.npz` of plain arrays.
    """
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name.removesuffix(".npy")] = read(file)[0]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npz of plain arrays: {error}") from error
    return shapes
