"""Photographs with the group structure of Spawrious: garments of Fashion-MNIST before pictures of CIFAR-10."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.data.dataset import Dataset, check_count
from faultlines.data.loading import load
from faultlines.data.spurious.benchmark import SpuriousBenchmark, check_sizes, expand
from faultlines.data.spurious.grouped import GroupedImages, benchmark_cells

GARMENTS = {"trouser": 1, "bag": 8, "ankle boot": 9, "pullover": 2}  # their numbers in Fashion-MNIST
SCENES = {"airplane": 0, "automobile": 1, "deer": 4, "frog": 6, "horse": 7, "ship": 8}  # in CIFAR-10
CELLS = {"train": "train", "validation": "train", "ood_validation": "test", "test": "test"}
EDGE = 0.1  # intensity from which a pixel is garment


def composite_benchmark(
    name: str,
    root: str | os.PathLike | None = None,
    *,
    n_train: int = 300,
    n_validation: int = 60,
    n_test: int = 100,
    n_ood_validation: int = 0,
    size: int = 32,
    opacity: float = 1.0,
    seed: int = 0,
) -> SpuriousBenchmark:
    """Compose a benchmark of photographs whose foreground is known.

    A garment, lit in a colour that tells nothing, stands at a random place before a picture of the class that takes the
    place of the original's location. The test images alone are made of the test splits of the two data sets, so that
    no choice by a validation set has seen one; within a benchmark no garment and no picture is used twice.

    Args:
        name: One of `BENCHMARKS`: `"o2o_easy"` to `"m2m_hard"`.
        root: Folder of the data sets; by default `FAULTLINES_DATA`.
        n_train: Training images, of each class in each environment.
        n_validation: Validation images of the training cells.
        n_test: Test images.
        n_ood_validation: Validation images of the test cells; none by default.
        size: Height and width in pixels, at least 32.
        opacity: Share of the garment in the pixels that it covers, in (0, 1].
        seed: Seed of everything.

    Raises:
        ValueError: If the name is unknown, a number out of range, or there are too few garments or pictures.
        FileNotFoundError: If a data set is not there.
    """
    check_sizes(n_train, n_validation, n_test, n_ood_validation)
    counts = {
        "train": n_train,
        "validation": n_validation,
        "test": n_test,
        "ood_validation": n_ood_validation,
    }
    check_count("size", size, 32)
    if not 0 < opacity <= 1:
        raise ValueError(f"opacity={opacity!r} must lie in (0, 1]")
    garments, pictures = _load("fashion_mnist", cast(Any, root)), _load("cifar10", cast(Any, root))
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, GroupedImages] = {}
    for source, splits in {"train": ("train", "validation", "ood_validation"), "test": ("test",)}.items():
        labels = {
            split: expand(getattr(benchmark_cells(name, counts[split]), CELLS[split]))
            for split in splits
            if counts[split]
        }
        y, c, environment = (torch.cat(parts) for parts in zip(*labels.values(), strict=True))
        front, behind = (getattr(data, source) for data in (garments, pictures))
        chosen = _draw(front.y, y, list(GARMENTS.values()), generator)
        scene = _draw(behind.y, c, list(SCENES.values()), generator)
        x, mask = compose(front.x[chosen], behind.x[scene], size=size, opacity=opacity, generator=generator)
        whole, start = GroupedImages(x, y, c, environment, mask), 0
        for split, (its, _, _) in labels.items():
            part = whole[start : start + len(its)]
            made[split] = GroupedImages(part.x, part.y, part.c, part.environment, part.mask, split=split)
            start += len(its)
    return SpuriousBenchmark(
        name, made["train"], made["validation"], made["test"], made.get("ood_validation"),
        classes=tuple(GARMENTS), backgrounds=tuple(SCENES),
    )  # fmt: skip


def compose(
    garments: Float[Tensor, "n 1 28 28"],
    pictures: Float[Tensor, "n 3 height width"],
    *,
    size: int,
    opacity: float,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n 3 size size"], Tensor]:
    """Lay garments, lit in random colours, over pictures at random places; return images and masks `[n, size, size]`.

    A garment's intensity says how much of the pixel it covers: none at 0, all of it (times `opacity`) above `EDGE`.
    """
    n = len(garments)
    side = round(0.75 * size)
    front = F.interpolate(garments, (side, side), mode="bilinear", align_corners=False)
    ground = F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False)
    placed = torch.zeros(n, 1, size, size)
    offset = torch.randint(0, size - side + 1, (n, 2), generator=generator)
    for k, (row, column) in enumerate(offset.tolist()):
        placed[k, :, row : row + side, column : column + side] = front[k]
    tint = 0.5 + 0.5 * torch.rand(n, 3, 1, 1, generator=generator)
    cover = opacity * (placed / EDGE).clamp(max=1)
    return torch.lerp(ground, placed * tint, cover.expand_as(ground)), placed[:, 0] > EDGE


@cache
def _load(name: str, root: str | os.PathLike | None) -> Dataset:
    return load(name, root=root)


def _draw(have: Tensor, wanted: Tensor, number: list[int], generator: torch.Generator) -> Tensor:
    """Return one index for each wanted label, none twice; `number` is a label's number in the data set."""
    index = torch.empty(len(wanted), dtype=torch.int64)
    for label in wanted.unique().tolist():
        places = (wanted == label).nonzero()[:, 0]
        there = (have == number[label]).nonzero()[:, 0]
        if len(there) < len(places):
            raise ValueError(
                f"{len(places)} images of class {number[label]} are asked for, {len(there)} are there"
            )
        index[places] = there[torch.randperm(len(there), generator=generator)[: len(places)]]
    return index
