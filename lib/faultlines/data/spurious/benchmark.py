"""A procedural benchmark with the group structure of Spawrious: training, validation and test set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from faultlines.data.dataset import check_count
from faultlines.data.spurious.grouped import CLASSES, LOCATIONS, Cell, GroupedImages, benchmark_cells
from faultlines.data.spurious.rendering import check_dials, render_groups


@dataclass(frozen=True, repr=False)
class SpuriousBenchmark:
    """Images of a benchmark.

    Attributes:
        name: `"m2m_hard"`, say.
        train: Training images.
        validation: Other images of the training cells at the same rates, to choose by as one who has no test groups.
        test: Images of the test cells.
        ood_validation: Images of the test cells that are not the test's, or None.
        classes: Names of the classes.
        backgrounds: Names of the backgrounds.
    """

    name: str
    train: GroupedImages
    validation: GroupedImages
    test: GroupedImages
    ood_validation: GroupedImages | None = None
    classes: tuple[str, ...] = CLASSES
    backgrounds: tuple[str, ...] = LOCATIONS

    def __repr__(self) -> str:
        return (
            f"SpuriousBenchmark({self.name!r}: {len(self.train)} train, {len(self.validation)} validation, "
            f"{len(self.test)} test)"
        )


def spurious_benchmark(
    name: str,
    *,
    n_train: int = 300,
    n_validation: int = 60,
    n_test: int = 100,
    n_ood_validation: int = 0,
    size: int = 64,
    bgs: float = 1.0,
    patch: int | None = None,
    coat: float = 1.0,
    noise: float = 0.03,
    seed: int = 0,
) -> SpuriousBenchmark:
    """Render a benchmark.

    Counts are images of each class in each of the two environments, 3168 in the original: 300 make 2400 training
    images. The splits share no image. The animals of a seed are the same whatever the dials.

    The names are those of the original's combinations. Their order of difficulty is a property of its photographs
    and need not be that of these scenes. At full strength a network falls for the background wholly; weaker
    strengths, or a patch, leave a choice.

    Args:
        name: One of `BENCHMARKS`: `"o2o_easy"` to `"m2m_hard"`.
        n_train: Training images, of each class in each environment.
        n_validation: Validation images.
        n_test: Test images.
        n_ood_validation: Validation images of the test cells; none by default.
        size: Height and width in pixels, at least 32.
        bgs: Strength of the background in [0, 1]; at 0 it tells nothing.
        patch: Side of the square, at a random place, that alone shows the location; None fills the image.
        coat: Contrast of the coat in [0, 1]; at 0 only the outline tells the class.
        noise: Standard deviation of each pixel.
        seed: Seed of everything.

    Raises:
        ValueError: If the name is unknown or a number out of range.

    Example:
        >>> data = spurious_benchmark("m2m_hard", n_train=5, n_validation=2, n_test=3)
        >>> data
        SpuriousBenchmark('m2m_hard': 40 train, 16 validation, 24 test)
        >>> data.train
        GroupedImages(40 images 3 x 64 x 64, 8 groups)
    """
    check_sizes(n_train, n_validation, n_test, n_ood_validation)
    check_dials(size=size, bgs=bgs, patch=patch, coat=coat, noise=noise)
    generator = torch.Generator().manual_seed(seed)
    seeds = iter(torch.randint(2**62, (4,), generator=generator).tolist())

    def split(purpose: str, part: str, n: int) -> GroupedImages:
        cells: tuple[Cell, ...] = getattr(benchmark_cells(name, n), part)
        y, c, environment = expand(cells)
        images = render_groups(
            y,
            c,
            environment=environment,
            size=size,
            bgs=bgs,
            patch=patch,
            coat=coat,
            noise=noise,
            seed=next(seeds),
        )
        return replace(images, split=purpose)

    return SpuriousBenchmark(
        name,
        split("train", "train", n_train),
        split("validation", "train", n_validation),
        split("test", "test", n_test),
        split("ood_validation", "test", n_ood_validation) if n_ood_validation else None,
    )


def check_sizes(
    n_train: int | None, n_validation: int | None, n_test: int | None, n_ood_validation: int, also: str = ""
) -> None:
    """Refuse numbers of images that a benchmark's splits cannot have; None is what its maker takes by default.

    Raises:
        ValueError: Naming the argument, its value and what is allowed, with the words of `also`.
    """
    for name, n in {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}.items():
        if n is not None:
            check_count(name, n, also=also)
    check_count("n_ood_validation", n_ood_validation, 0)


def expand(cells: tuple[Cell, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return class, background and environment of every image of the cells, `[n]` each, in their order.

    Example:
        >>> from faultlines.data.spurious.grouped import Cell
        >>> expand((Cell("corgi", "snow", 1, 2), Cell("labrador", "desert", 0, 1)))
        (tensor([1, 1, 3]), tensor([4, 4, 0]), tensor([1, 1, 0]))
    """
    counts = torch.tensor([cell.count for cell in cells])
    numbers = torch.tensor([(cell.y, cell.c, cell.environment) for cell in cells])
    y, c, environment = numbers.repeat_interleave(counts, dim=0).unbind(dim=1)
    return y, c, environment
