"""Spawrious (Lynch et al. 2023) from its folders on disk: dogs of four breeds in six locations."""

from __future__ import annotations

import os
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

import torch

from faultlines.data.catalogue import data_root
from faultlines.data.image_files import digests, distinct_images, read_images
from faultlines.data.spurious.benchmark import SpuriousBenchmark, check_sizes, expand
from faultlines.data.spurious.grouped import PER_CLASS, Cell, GroupedImages, benchmark_cells

Part = Literal["all", "choosing", "reporting"]

FOLDER = "spawrious224"
SOURCE = "github.com/aengusl/spawrious names the archive `entire_dataset`, which holds every benchmark"
HELD_OUT = 0.1  # of the training images, in the published protocol
CHOOSING = 4  # one of so many files is there to choose by


def load_spawrious(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    size: int = 224,
    n_train: int | None = None,
    n_validation: int | None = None,
    n_test: int | None = None,
    n_ood_validation: int = 0,
    part: Part = "all",
    seed: int = 0,
    dtype: torch.dtype = torch.uint8,
) -> SpuriousBenchmark:
    """Load a benchmark of Spawrious from `<root>/spawrious224/{0,1}/<location>/<class>/*.png`.

    A many-to-many benchmark reads folder 0 alone; a one-to-one benchmark has its environments in the folders 0 and 1.
    Counts are images of each class in each of the two environments, as in `spurious_benchmark`; which files they are
    is drawn by `seed`, from their names in order. No image is in two splits: a file that is a copy of another in its
    folder is passed over, and all pixels are compared. Whole, a many-to-many benchmark at 224
    pixels has 8 GB of pixels, in files that are mapped into memory (see `read_images`).

    The benchmarks share their images: half of the test set of `m2m_hard` are training images of `m2m_easy`. Who
    chooses options on one and reports on another takes `part="choosing"` there and `part="reporting"` here, which have
    no file in common.

    Args:
        name: `"m2m_hard"`, say; one of `BENCHMARKS`.
        root: The folder that holds `spawrious224`; by default `FAULTLINES_DATA/spawrious`, else `FAULTLINES_DATA`.
        size: Height and width to resize to.
        n_train: Training images; by default all that validation leaves.
        n_validation: Other images of the training cells, to choose by; by default a tenth of both, as published.
        n_test: Test images; by default all that `n_ood_validation` leaves.
        n_ood_validation: Other images of the test cells; none by default.
        part: Files to draw from: `"all"`, the `"choosing"` quarter of every folder, or the `"reporting"` rest.
        seed: Seed of the choice of files.
        dtype: `torch.uint8`, 0 to 255, `torch.float16` or `torch.float32`, in [0, 1].

    Returns:
        The benchmark, without masks.

    Raises:
        ValueError: If the name is unknown, a number out of range, a file no image, or an image in two splits.
        FileNotFoundError: If folders or images are missing; the message names them and where to get them.
    """
    if part not in get_args(Part):
        raise ValueError(f"part={part!r} is not one of {', '.join(get_args(Part))}")
    check_sizes(n_train, n_validation, n_test, n_ood_validation, also=", or None")
    there = len(_part(range(PER_CLASS), part))
    if n_validation is None:
        n_validation = max(
            1, round(HELD_OUT * there if n_train is None else n_train * HELD_OUT / (1 - HELD_OUT))
        )
    n_train = there - n_validation if n_train is None else n_train
    n_test = there - n_ood_validation if n_test is None else n_test
    sizes = {"train": n_train, "validation": n_validation, "test": n_test, "ood_validation": n_ood_validation}
    cells = {
        split: getattr(benchmark_cells(name, n), "train" if split in ("train", "validation") else "test")
        for split, n in sizes.items()
        if n
    }
    files = _files(find_spawrious(root), name, cells, part, seed)
    read = {}
    for split, its in cells.items():
        y, c, environment = expand(its)
        x = read_images(files[split], size, dtype)
        read[split] = GroupedImages(x, y, c, environment, split=split)
    pixels = {split: digests(images.x) for split, images in read.items()}
    for one, other in combinations(read, 2):
        if n := len(pixels[one] & pixels[other]):
            raise ValueError(
                f"{name} of Spawrious: {n} images of `{other}` have the pixels of images of `{one}`; a copy of a file "
                "stands in another folder"
            )
    return SpuriousBenchmark(
        name, read["train"], read["validation"], read["test"], read.get("ood_validation")
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


def _part(files: range | list[Path], part: Part) -> list:
    """Return what is there to choose by, to report on, or all."""
    if part == "all":
        return list(files)
    return [file for k, file in enumerate(files) if (k % CHOOSING == 0) == (part == "choosing")]


def _files(
    folder: Path, name: str, cells: dict[str, tuple[Cell, ...]], part: Part, seed: int
) -> dict[str, list[Path]]:
    """Return the files of the cells of every split in their order, after making sure that all are there."""

    def place(cell: Cell) -> Path:
        inner = cell.environment if name.startswith("o2o") else 0
        return folder / str(inner) / cell.location / cell.label

    needed: Counter[Path] = Counter()
    for cell in (cell for its in cells.values() for cell in its):
        needed[place(cell)] += cell.count
    drawn, missing = {}, []
    generator = torch.Generator().manual_seed(seed)
    for where, n in needed.items():
        found = _part(distinct_images(where), part) if where.is_dir() else []
        if len(found) < n:
            missing.append(f"{where} ({len(found)} of {n} images)")
        drawn[where] = iter([found[k] for k in torch.randperm(len(found), generator=generator).tolist()])
    if missing:
        there = "" if part == "all" else f" for part={part!r}"
        raise FileNotFoundError(
            f"{name} of Spawrious is incomplete{there}; missing: {', '.join(missing)}. {SOURCE}; "
            "smaller numbers of images ask for less"
        )
    return {
        split: [next(drawn[place(cell)]) for cell in its for _ in range(cell.count)]
        for split, its in cells.items()
    }
