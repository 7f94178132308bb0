"""What data sets are on this machine, and how to get the others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faultlines.data.catalogue import KNOWN
from faultlines.data.loading import how_to_get, locate
from faultlines.data.npz import KEYS, npz_shapes
from faultlines.data.root import data_root


@dataclass(frozen=True)
class Availability:
    """Whether a data set can be loaded now.

    Attributes:
        name: The name that `load` takes.
        source: `"embedded"`, `"npz"`, `"torchvision"`, or None where it is not on disk.
        path: The file or folder it was found in.
        n_train: Training images: found, or in the original where nothing was found.
        n_test: Test images.
        image_shape: Channel, height, width.
        size: Bytes on disk; 0 where nothing was found.
        how: How to get it.
    """

    name: str
    source: Literal["embedded", "npz", "torchvision"] | None
    path: Path | None
    n_train: int
    n_test: int
    image_shape: tuple[int, int, int]
    size: int
    how: str


def available(root: str | os.PathLike | None = None) -> list[Availability]:
    """Survey the known data sets and every `.npz` data set under `root`; reads no images, downloads nothing.

    Args:
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Returns:
        One entry a data set: the known ones first, then those the user brought, by name. An `.npz` that is no
        data set is left out.

    Example:
        >>> [entry.name for entry in available("/nonexistent") if entry.source]
        ['digits']
    """
    folder = data_root(root)
    brought = sorted({path.stem for path in folder.glob("*.npz")} - set(KNOWN)) if folder.is_dir() else []
    entries = (_survey(name, folder) for name in [*KNOWN, *brought])
    return [entry for entry in entries if entry is not None]


def _survey(name: str, root: Path) -> Availability | None:
    known, how = KNOWN.get(name), how_to_get(name, root)
    if known is not None:
        sizes = (known.n_train, known.n_test, known.image_shape)
        if known.form == "embedded":
            return Availability(name, "embedded", None, *sizes, 0, how)
    found = locate(name, root)
    if found is None:
        return None if known is None else Availability(name, None, None, *sizes, 0, how)
    source, path = found
    if source == "torchvision":
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        return Availability(name, source, path, *sizes, size, how)
    try:
        shapes = npz_shapes(path)
        (n_train, height, width, *channel), (n_test, *_) = shapes["x_train"], shapes["x_test"]
        if any(key not in shapes for key in KEYS):
            return None
    except (ValueError, KeyError, OSError):
        # of a known name: worth showing as missing; of any other: some .npz that is not ours
        return (
            None if known is None else Availability(name, None, None, *sizes, 0, f"{path} is damaged; {how}")
        )
    shape = (channel[0] if channel else 1, height, width)
    return Availability(name, source, path, n_train, n_test, shape, path.stat().st_size, how)
