"""Spawrious (Lynch et al. 2023) from its folders on disk: dogs of four breeds in six locations."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from faultlines.data.catalogue import data_root
from faultlines.data.image_files import list_images, read_images
from faultlines.data.spurious.benchmark import SpuriousBenchmark, expand
from faultlines.data.spurious.grouped import PER_CLASS, Cell, GroupedImages, benchmark_cells

FOLDER = "spawrious224"
SOURCE = "github.com/aengusl/spawrious names the archive `entire_dataset`, which holds every benchmark"


def load_spawrious(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    size: int = 224,
    limit: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> SpuriousBenchmark:
    """Load a benchmark of Spawrious from `<root>/spawrious224/{0,1}/<location>/<class>/*.png`.

    A many-to-many benchmark reads folder 0 alone; a one-to-one benchmark has its environments in the folders 0 and 1.
    Files are taken in the order of their names, so a limit keeps the same images on every machine. Whole, a
    many-to-many benchmark at 224 pixels takes 30 GB in float32.

    Args:
        name: `"m2m_hard"`, say; one of `BENCHMARKS`.
        root: The folder that holds `spawrious224`; by default `FAULTLINES_DATA/spawrious`, else `FAULTLINES_DATA`.
        size: Height and width to resize to.
        limit: Images of each class in each environment, 3168 by default, all there are.
        validation: Share of the training images of each cell held out to choose by; the published protocol
            uses 0.1, so validation has the training groups alone.
        seed: Seed of that choice.
        dtype: `torch.float32` or `torch.float16`.

    Returns:
        The benchmark, without masks.

    Raises:
        ValueError: If the name is unknown, a number out of range or a file no image.
        FileNotFoundError: If folders or images are missing; the message names them and where to get them.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 2):
        raise ValueError(f"limit={limit!r} must be an integer of at least 2, or None for all")
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation!r} must lie in (0, 1)")
    structure = benchmark_cells(name, PER_CLASS if limit is None else limit)
    folder = find_spawrious(root)
    train_files, test_files = (_files(folder, name, cells) for cells in structure)
    generator = torch.Generator().manual_seed(seed)
    held: list[bool] = []
    for cell in structure.train:
        chosen = torch.zeros(cell.count, dtype=torch.bool)
        chosen[torch.randperm(cell.count, generator=generator)[: round(validation * cell.count)]] = True
        held += chosen.tolist()
    chosen = torch.tensor(held)
    if not 0 < int(chosen.sum()) < len(held):
        raise ValueError(f"validation={validation!r} of {len(held)} training images leaves one part empty")
    train = _read(structure.train, train_files, size, dtype)
    test = _read(structure.test, test_files, size, dtype)
    return SpuriousBenchmark(
        name,
        replace(train[~chosen], split="train"),
        replace(train[chosen], split="validation"),
        replace(test, split="test"),
    )


def find_spawrious(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of Spawrious; reads nothing.

    Args:
        root: As for `load_spawrious`.

    Raises:
        FileNotFoundError: If it is not there; the message says where to get it.
    """
    named = data_root(root)
    places = [named] if root is not None else [named / "spawrious", named]
    for place in places:
        folder = place if place.name == FOLDER else place / FOLDER
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"Spawrious is not there: looked for {' and '.join(str(place / FOLDER) for place in places)}. {SOURCE}; "
        "unpack it there, or give the folder as `root` or in the environment variable FAULTLINES_DATA"
    )


def _files(folder: Path, name: str, cells: tuple[Cell, ...]) -> list[Path]:
    """Return the files of the cells in their order, after making sure that all are there."""
    found, missing = [], []
    for cell in cells:
        inner = cell.environment if name.startswith("o2o") else 0
        place = folder / str(inner) / cell.location / cell.label
        files = list_images(place) if place.is_dir() else []
        if len(files) < cell.count:
            missing.append(f"{place} ({len(files)} of {cell.count} images)")
        found += files[: cell.count]
    if missing:
        missing = list(dict.fromkeys(missing))
        raise FileNotFoundError(
            f"{name} of Spawrious is incomplete; missing: {', '.join(missing)}. {SOURCE}; "
            "a smaller `limit` asks for less"
        )
    return found


def _read(cells: tuple[Cell, ...], files: list[Path], size: int, dtype: torch.dtype) -> GroupedImages:
    y, c, environment = expand(cells)
    return GroupedImages(read_images(files, size, dtype), y, c, environment)
