"""Which of the data sets that are folders of pictures are on this machine; `load` does not know them by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from faultlines.data import spawrious, waterbirds
from faultlines.data.root import data_root


@dataclass(frozen=True)
class FolderSet:
    """Whether a folder of pictures is there.

    Attributes:
        name: Its name.
        loader: The function that reads it.
        path: The folder, or None where it is not there.
        how: Where it was looked for and how to get it; empty where it is there.
    """

    name: str
    loader: str
    path: Path | None
    how: str


def folder_sets(root: str | os.PathLike | None = None) -> list[FolderSet]:
    """Look for Spawrious and Waterbirds; reads no pictures, so that only their loaders know whether all are there.

    Args:
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Returns:
        One entry a data set.

    Example:
        >>> [(entry.name, entry.path) for entry in folder_sets("/nonexistent")]
        [('spawrious', None), ('waterbirds', None)]
    """
    looked = {"spawrious": spawrious._find, "waterbirds": _find_waterbirds}
    found = []
    for name, look in looked.items():
        try:
            path, how = look(root), ""
        except FileNotFoundError as error:
            path, how = None, str(error)
        found.append(FolderSet(name, f"faultlines.data.load_{name}", path, how))
    return found


def _find_waterbirds(root: str | os.PathLike | None) -> Path:
    base = data_root(root)
    folder = base if base.name == waterbirds.FOLDER else base / waterbirds.FOLDER
    if not (folder / "metadata.csv").is_file():
        waterbirds.load_waterbirds(root)  # which raises, with where to get it
    return folder
