"""Image files as tensors, with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder sorted by name, the order of no file system."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def read_images(
    paths: Sequence[Path], size: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n 3 size size"]:
    """Read files as RGB in [0, 1], resized to squares with antialiasing.

    Args:
        paths: The files.
        size: Height and width.
        dtype: `torch.float32`, or `torch.float16`, which tells 256 levels apart in half of the memory.

    Raises:
        ValueError: If a file is no image, or the size or the type is not allowed.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype={dtype} is not one of torch.float32, torch.float16")
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise ValueError(f"size={size!r} must be an integer of at least 8")
    images = torch.empty(len(paths), 3, size, size, dtype=dtype)
    for k, path in enumerate(paths):
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        images[k] = torch.from_numpy(np.array(picture, dtype=np.float32) / 255).permute(2, 0, 1)
    return images
