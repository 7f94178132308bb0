"""Waterbirds (Sagawa et al. 2020) from its folder on disk: birds of land and water before land and water."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch

from faultlines.data.catalogue import data_root
from faultlines.data.image_files import read_images
from faultlines.data.spurious.benchmark import SpuriousBenchmark
from faultlines.data.spurious.grouped import GroupedImages

FOLDER = "waterbird_complete95_forest2water2"
TABLE = "metadata.csv"
SPLITS = (
    "train",
    "ood_validation",
    "test",
)  # as the file numbers them; validation there has all groups alike
_COLUMNS = ("img_filename", "y", "split", "place")


def load_waterbirds(
    root: str | os.PathLike | None = None, *, size: int = 224, dtype: torch.dtype = torch.float32
) -> SpuriousBenchmark:
    """Load Waterbirds from `<root>/waterbird_complete95_forest2water2/metadata.csv` and the files it names.

    The published validation set has the groups of the test in equal parts. So here `validation` and
    `ood_validation` are the same images, under the name of the latter: a choice made on them has seen the test's
    groups. Images are resized to squares, without the central crop of some published code.

    Args:
        root: The folder that holds it; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.
        size: Height and width to resize to.
        dtype: `torch.float32`, `torch.float16`, or `torch.uint8` with values up to 255.

    Returns:
        The benchmark, `c` the place (0 land, 1 water), without masks; all in environment 0.

    Raises:
        ValueError: If the table or an image is not as published.
        FileNotFoundError: If the table or images are missing; the message says where to get them.
    """
    folder = find_waterbirds(root)
    table = folder / TABLE
    rows = _rows(table)
    if missing := [name for name, *_ in rows if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(rows)} images, {', '.join(missing[:3])} first"
        )
    splits = {}
    for number, name in enumerate(SPLITS):
        part = [row for row in rows if row[2] == number]
        if not part:
            raise ValueError(f"{table} has no row of split {number}")
        y, c = (torch.tensor([row[k] for row in part]) for k in (1, 3))
        x = read_images([folder / row[0] for row in part], size, dtype)
        splits[name] = GroupedImages(x, y, c, torch.zeros_like(y), backgrounds=2, split=name)
    return SpuriousBenchmark(
        "waterbirds",
        splits["train"],
        splits["ood_validation"],
        splits["test"],
        splits["ood_validation"],
        classes=("landbird", "waterbird"),
        backgrounds=("land", "water"),
    )


def find_waterbirds(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of Waterbirds, told by its table; reads nothing.

    Args:
        root: As for `load_waterbirds`.

    Raises:
        FileNotFoundError: If it is not there; the message says where to get it.
    """
    base = data_root(root)
    folder = base if base.name == FOLDER else base / FOLDER
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(
            f"Waterbirds is not there: looked for {folder / TABLE}. github.com/kohpangwei/group_DRO names the archive "
            f"{FOLDER}.tar.gz; unpack it there, or give the folder as `root` or in FAULTLINES_DATA"
        )
    return folder


def _rows(table: Path) -> list[tuple[str, int, int, int]]:
    """Read file name, class, split and place of every image."""
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{table} has no column {missing[0]!r}; it needs {', '.join(_COLUMNS)}")
        rows = []
        for line, row in enumerate(reader, start=2):
            values = [row[name] for name in _COLUMNS[1:]]
            allowed = (("0", "1"), ("0", "1", "2"), ("0", "1"))
            if any(value not in choices for value, choices in zip(values, allowed, strict=True)):
                raise ValueError(
                    f"{table}, line {line}: y, split, place are {values}; need 0 or 1, 0 to 2, 0 or 1"
                )
            y, split, place = map(int, values)
            rows.append((row["img_filename"], y, split, place))
    return rows
