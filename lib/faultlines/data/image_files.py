"""Image files as tensors, with Pillow alone."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from faultlines.data.dataset import check_count

SUFFIXES = (".png", ".jpg", ".jpeg")
NUMPY_TYPES = {torch.uint8: np.uint8, torch.float16: np.float16, torch.float32: np.float32}
IN_MEMORY = 2**30  # bytes above which pixels are kept in a file, mapped into memory


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder sorted by name, the order of no file system."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def distinct_images(folder: Path) -> list[Path]:
    """Return the image files of a folder without those that hold byte for byte what one before them holds."""
    files, kept = list_images(folder), []
    sizes = Counter(path.stat().st_size for path in files)
    seen: set[bytes] = set()
    for path in files:
        if sizes[path.stat().st_size] > 1:  # files of other sizes differ
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(path)
    return kept


def read_images(
    paths: Sequence[Path], size: int, dtype: torch.dtype = torch.float32
) -> Shaped[Tensor, "n 3 size size"]:
    """Read files as RGB, resized to squares with antialiasing, several at once.

    More than a gigabyte of pixels goes into a temporary file that is mapped into memory: the tensor is like any
    other, but the system reads the pages that are used and may drop them again.

    Args:
        paths: The files.
        size: Height and width.
        dtype: `torch.uint8`, 0 to 255; `torch.float32` in [0, 1]; or `torch.float16`, which tells 256 levels apart.

    Raises:
        ValueError: If a file is no image, or the size or the type is not allowed.
    """
    if dtype not in NUMPY_TYPES:
        raise ValueError(f"dtype={dtype} is not one of {', '.join(map(str, NUMPY_TYPES))}")
    check_count("size", size, 8)
    images = _room((len(paths), 3, size, size), dtype)

    def read(k: int) -> None:
        pixels = torch.from_numpy(_pixels(paths[k], size)).permute(2, 0, 1)
        images[k] = pixels if dtype == torch.uint8 else pixels.float() / 255

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(read, range(len(paths))):
            pass
    return images


def shared_images(first: Shaped[Tensor, "n *shape"], second: Shaped[Tensor, "m *shape"]) -> int:
    """Return how many images of the second set are in the first, told by their pixels.

    Example:
        >>> x = torch.arange(5)[:, None].repeat(1, 3)
        >>> shared_images(x[:3], x[1:]), shared_images(x[:2], x[2:])
        (2, 0)
    """
    there = digests(first)
    return sum(_digest(image) in there for image in second)


def digests(images: Shaped[Tensor, "n *shape"]) -> set[bytes]:
    """Return what tells images from others by their pixels."""
    return {_digest(image) for image in images}


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.cpu().contiguous().numpy().data, digest_size=16).digest()


def _pixels(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(picture)


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if math.prod(shape) * dtype.itemsize <= IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="faultlines-") as file:  # gone with the last tensor that shows it
        return torch.from_numpy(np.memmap(file, dtype=NUMPY_TYPES[dtype], mode="w+", shape=shape))
