"""Stand-ins for data sets that are not here: a rehearsal trains on enlarged digits of the same shape and classes.

A rehearsal asks whether a run of the paper's sizes goes through, for which images of the right shape will do. It so
needs no download, and is the same computation wherever it runs.
"""

from __future__ import annotations

import colorsys
import os
from pathlib import Path
from typing import Any

import numpy as np

from faultlines.data.catalogue import KNOWN, KnownSet
from faultlines.data.loading import read_digits
from faultlines.notebook.project import Project

VARIABLE = "FAULTLINES_DATA"


def use_stand_ins(project: Project) -> Path:
    """Let this process, and those that it starts, find stand-ins in place of data sets.

    Args:
        project: The checkout; the stand-ins lie under its `_build`.

    Returns:
        The folder that `FAULTLINES_DATA` names from now on.
    """
    folder = project.build / "stand-ins"
    folder.mkdir(parents=True, exist_ok=True)
    for known in KNOWN.values():
        if known.form != "embedded" and not (folder / f"{known.name}.npz").is_file():
            write_stand_in(known, folder)
    os.environ[VARIABLE] = str(folder)
    return folder


def write_stand_in(known: KnownSet, folder: Path) -> Path:
    """Write a stand-in for a known data set as an `.npz` that `faultlines.data.load` reads.

    A class is a digit; where there are more than ten, a digit in one of several colours.

    Args:
        known: The data set.
        folder: Where to write it.

    Returns:
        The file.
    """
    channels, side, _ = known.image_shape
    x_train, y_train, x_test, y_test = read_digits()
    arrays: dict[str, Any] = {}
    for part, images, digits in (("train", x_train, y_train), ("test", x_test, y_test)):
        hues = max(1, len(known.classes) // 10)
        rank = np.array([np.count_nonzero(digits[:i] == digit) for i, digit in enumerate(digits)])
        hue = rank % hues  # every colour of a digit equally often
        large = enlarged(images, side)[..., None]
        if channels == 3:
            inks = np.array([colorsys.hsv_to_rgb(h / hues, 0.6 * (hues > 1), 1.0) for h in range(hues)])
            large = 0.1 + 0.8 * large * inks[hue][:, None, None]
        arrays[f"x_{part}"] = (255 * large).astype(np.uint8)
        arrays[f"y_{part}"] = digits * hues + hue
    path = folder / f"{known.name}.npz"
    beside = folder / f".{known.name}.{os.getpid()}.npz"  # another process may write the same
    np.savez_compressed(beside, **arrays)
    beside.replace(path)
    return path


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """Return square images `[n, h, h]` at another side, by linear interpolation.

    Example:
        >>> enlarged(np.array([[[0.0, 1.0], [0.0, 1.0]]]), 3)[0, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    at = np.linspace(0, images.shape[1] - 1, side)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, images.shape[1] - 1), at - low
    rows = images[:, low] * (1 - part)[:, None] + images[:, high] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, high] * part
