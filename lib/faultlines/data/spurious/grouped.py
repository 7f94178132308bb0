"""Groups of class and background: those of Spawrious (Lynch et al. 2023), and images that know theirs.

Transcribed from the benchmark's own loader (github.com/aengusl/spawrious, `spawrious/torch.py`). Two training
environments each; in the many-to-many benchmarks a pair of classes shares a pair of backgrounds, in the one-to-one
benchmarks each class has a background of its own, in 97 % and 87 % of its images, and all share a filler in the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from faultlines.data.dataset import check_count

CLASSES = ("bulldog", "corgi", "dachshund", "labrador")  # the loader's order, which numbers the labels
LOCATIONS = ("desert", "jungle", "dirt", "mountain", "snow", "beach")
PER_CLASS = 3168  # images of a class in an environment of the original
O2O_RATES = (0.97, 0.87)

_ORDER = ("bulldog", "dachshund", "labrador", "corgi")  # the order of the four places below
_M2M = {
    "easy": (("desert", "mountain", "dirt", "jungle"), ("dirt", "jungle", "mountain", "desert")),
    "medium": (("beach", "snow", "mountain", "desert"), ("desert", "mountain", "beach", "snow")),
    "hard": (("dirt", "jungle", "snow", "beach"), ("snow", "beach", "dirt", "jungle")),
}
_O2O = {
    "easy": (("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"),
    "medium": (("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"),
    "hard": (("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"),
}
BENCHMARKS = tuple(f"{kind}_{name}" for kind, table in (("o2o", _O2O), ("m2m", _M2M)) for name in table)


@dataclass(frozen=True)
class Cell:
    """Images of one class before one background in one environment.

    Attributes:
        label: Name of the class, one of `CLASSES`.
        location: Name of the background, one of `LOCATIONS`.
        environment: 0 or 1.
        count: Number of images.
    """

    label: str
    location: str
    environment: int
    count: int

    @property
    def y(self) -> int:
        """Number of the class."""
        return CLASSES.index(self.label)

    @property
    def c(self) -> int:
        """Number of the background."""
        return LOCATIONS.index(self.location)


class Structure(NamedTuple):
    """The cells of a benchmark.

    Attributes:
        train: Cells of the training set; a validation set from the same distribution has them too.
        test: Cells of the test set.
    """

    train: tuple[Cell, ...]
    test: tuple[Cell, ...]


def m2m_cells(difficulty: str, n: int = PER_CLASS) -> Structure:
    """Return the cells of a many-to-many benchmark.

    The two environments swap the backgrounds within a pair of classes, so a background tells the pair and nothing
    within it. No cell of the test is a cell of the training set.

    Args:
        difficulty: `"easy"`, `"medium"` or `"hard"`.
        n: Images of each class in each environment; 3168 in the original.

    Raises:
        ValueError: If the difficulty is unknown or `n` below 1.

    Example:
        >>> sorted({(cell.label, cell.location) for cell in m2m_cells("hard").train})[:2]
        [('bulldog', 'dirt'), ('bulldog', 'jungle')]
    """
    train, test = _M2M[_check(difficulty, n)]
    return Structure(_swapped(train, n), _swapped(test, n))


def o2o_cells(difficulty: str, n: int = PER_CLASS) -> Structure:
    """Return the cells of a one-to-one benchmark.

    A class has its own background in 97 % of its images in environment 0 and in 87 % in environment 1, rounded down,
    and the common filler in the rest. In the test each class has the background of another or a new one, in both
    environments.

    Args:
        difficulty: `"easy"`, `"medium"` or `"hard"`.
        n: Images of each class in each environment; 3168 in the original.

    Raises:
        ValueError: If the difficulty is unknown or `n` below 1.

    Example:
        >>> o2o_cells("easy").train[0], o2o_cells("easy").train[8]
        (Cell(label='bulldog', location='desert', environment=0, count=3072),
         Cell(label='bulldog', location='beach', environment=0, count=96))
    """
    train, test, filler = _O2O[_check(difficulty, n)]
    main = [int(rate * n) for rate in O2O_RATES]
    own = [
        Cell(label, location, e, main[e])
        for label, location in zip(_ORDER, train, strict=True)
        for e in (0, 1)
    ]
    shared = [Cell(label, filler, e, n - main[e]) for label in _ORDER for e in (0, 1)]
    last = [Cell(label, location, e, n) for label, location in zip(_ORDER, test, strict=True) for e in (0, 1)]
    return Structure(tuple(cell for cell in own + shared if cell.count), tuple(last))


def benchmark_cells(name: str, n: int = PER_CLASS) -> Structure:
    """Return the cells of a benchmark by its whole name, `"m2m_hard"`, say.

    Raises:
        ValueError: If the name is not one of `BENCHMARKS`, or `n` below 1.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"name={name!r} is not one of {', '.join(BENCHMARKS)}")
    kind, _, difficulty = name.partition("_")
    return (m2m_cells if kind == "m2m" else o2o_cells)(difficulty, n)


def _swapped(locations: tuple[str, ...], n: int) -> tuple[Cell, ...]:
    """Give classes 0, 1 the first two locations and classes 2, 3 the others, exchanged between environments."""
    first, second, third, fourth = locations
    pairs = ((first, second), (second, first), (third, fourth), (fourth, third))
    return tuple(
        Cell(label, pair[e], e, n) for label, pair in zip(_ORDER, pairs, strict=True) for e in (0, 1)
    )


def _check(difficulty: str, n: int) -> str:
    if difficulty not in _M2M:
        raise ValueError(f"difficulty={difficulty!r} is not one of {', '.join(_M2M)}")
    check_count("n", n)
    return difficulty


@dataclass(frozen=True, repr=False, eq=False)
class GroupedImages:
    """Images whose nuisance is known.

    Attributes:
        x: Images, `[n, 3, height, width]`, floats in [0, 1], or bytes where there are many.
        y: Classes, `[n]`.
        c: Backgrounds, `[n]`: the confounder.
        environment: Training environment 0 or 1, `[n]`.
        mask: True where the foreground is, `[n, height, width]`; None where it is not known.
        backgrounds: Number of backgrounds there are, also of those that do not occur here.
        split: `"train"`, `"validation"` (of the training groups), `"ood_validation"` (of the test groups), `"test"`,
            or empty; a model may be chosen on a validation set alone.
    """

    x: Shaped[Tensor, "n 3 height width"]
    y: Int64[Tensor, " n"]
    c: Int64[Tensor, " n"]
    environment: Int64[Tensor, " n"]
    mask: Bool[Tensor, "n height width"] | None = None
    backgrounds: int = len(LOCATIONS)
    split: str = ""

    @property
    def group(self) -> Int64[Tensor, " n"]:
        """Number of class and background together, `y * backgrounds + c`."""
        return self.y * self.backgrounds + self.c

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: slice | Tensor) -> GroupedImages:
        """Return the images at a slice, at indices or where a mask is True."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: str | torch.device) -> GroupedImages:
        """Return the images on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> GroupedImages:
        x, y, c, environment = (change(tensor) for tensor in (self.x, self.y, self.c, self.environment))
        mask = None if self.mask is None else change(self.mask)
        return replace(self, x=x, y=y, c=c, environment=environment, mask=mask)

    def __repr__(self) -> str:
        groups = len(self.group.unique())
        return f"GroupedImages({len(self)} images {' x '.join(map(str, self.x.shape[1:]))}, {groups} groups)"
