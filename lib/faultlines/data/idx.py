"""The idx format of the MNIST family (Y. LeCun): big-endian header, then the bytes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from faultlines.data.arrays import Arrays

PARTS = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes, gzipped or not.

    Args:
        path: File named `*.gz` or unpacked.

    Returns:
        The array in its own shape, uint8.

    Raises:
        ValueError: If the header is not that of unsigned bytes, or the file is truncated or damaged.
    """
    try:
        blob = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to have it fetched again") from error
    if len(blob) < 4 or blob[:3] != b"\0\0\x08" or len(blob) < 4 + 4 * blob[3]:
        raise ValueError(f"{path} is no idx file of unsigned bytes: it starts with {blob[:4].hex(' ')!r}")
    shape = tuple(np.frombuffer(blob, ">u4", count=blob[3], offset=4).tolist())
    data = np.frombuffer(blob, np.uint8, offset=4 + 4 * len(shape))
    if data.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is truncated: shape {shape} in its header, {data.size} bytes of data")
    return data.reshape(shape)


def find_idx(folder: Path) -> dict[str, Path] | None:
    """Return the four files of torchvision's `raw` folder, packed or not, or None if one is missing."""
    found = {}
    for part, prefix in PARTS.items():
        for key, kind in ((f"x_{part}", "images-idx3-ubyte"), (f"y_{part}", "labels-idx1-ubyte")):
            candidates = (folder / f"{prefix}-{kind}", folder / f"{prefix}-{kind}.gz")
            path = next((path for path in candidates if path.is_file()), None)
            if path is None:
                return None
            found[key] = path
    return found


def read_idx_folder(folder: Path) -> Arrays:
    """Read torchvision's `raw` folder of the MNIST family.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    found = find_idx(folder)
    if found is None:
        raise ValueError(f"{folder} lacks one of the four idx files of the MNIST family")
    return Arrays(**{key: read_idx(path) for key, path in found.items()})
