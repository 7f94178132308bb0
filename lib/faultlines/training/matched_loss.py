"""Grids of step size, batch size and momentum, each trained to the same training loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.estimators.forward import with_gradients
from faultlines.training.batches import Augment
from faultlines.training.fit import fit
from faultlines.training.loop import History
from faultlines.training.objectives.objective import Objective
from faultlines.training.optimizer import Settings, plain_number, prepared
from faultlines.training.seeding import seeded


@dataclass(frozen=True)
class Cell:
    """One setting of plain SGD.

    Args:
        lr: Step size.
        batch_size: Samples a step.
        momentum: Momentum; 0 for none.
    """

    lr: float
    batch_size: int = 32
    momentum: float = 0.0

    def __str__(self) -> str:
        return f"lr{self.lr:g}-batch{self.batch_size}-momentum{self.momentum:g}"


def grid(
    *, lr: Sequence[float], batch_size: Sequence[int] = (32,), momentum: Sequence[float] = (0.0,)
) -> list[Cell]:
    """Return all combinations, the step size changing slowest.

    Example:
        >>> [str(cell) for cell in grid(lr=[0.1, 1.0], batch_size=[8])]
        ['lr0.1-batch8-momentum0', 'lr1-batch8-momentum0']
    """
    return [Cell(*values) for values in itertools.product(lr, batch_size, momentum)]


@dataclass(frozen=True)
class MatchedRun:
    """One network of a grid, and whether it came to the training loss.

    Attributes:
        cell: Its setting.
        seed: Seed of initial weights and batches.
        unmatched: The network as it is, whether it came there or not.
        history: What happened; `stopped_at` is the step of the match. None where the loss stopped being finite.
        why: Why there is no match, in words; empty where there is one.
    """

    cell: Cell
    seed: int
    unmatched: nn.Module
    history: History | None
    why: str

    @property
    def reached(self) -> bool:
        """Whether the training loss was reached."""
        return not self.why

    @property
    def model(self) -> nn.Module:
        """The network at the matched loss.

        Raises:
            ValueError: If the loss was not reached; the message says why. `unmatched` is the network all the same.
        """
        if self.why:
            raise ValueError(f"{self.cell} with seed {self.seed} has no matched network: {self.why}")
        return self.unmatched


class MatchedGrid(Sequence[MatchedRun]):
    """The runs of a grid, cell after cell, within a cell in the order of the seeds."""

    def __init__(self, runs: Sequence[MatchedRun]) -> None:
        self.runs = list(runs)

    @overload
    def __getitem__(self, index: int) -> MatchedRun: ...
    @overload
    def __getitem__(self, index: slice) -> list[MatchedRun]: ...
    def __getitem__(self, index: int | slice) -> MatchedRun | list[MatchedRun]:
        """Return one run, or several."""
        return self.runs[index]

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def of(self, cell: Cell) -> list[MatchedRun]:
        """Return the runs of one cell."""
        return [run for run in self.runs if run.cell == cell]

    def complete(self) -> list[Cell]:
        """Return the cells in which every seed reached the loss: those that may be compared."""
        cells = dict.fromkeys(run.cell for run in self.runs)
        return [cell for cell in cells if all(run.reached for run in self.of(cell))]

    def missed(self) -> list[MatchedRun]:
        """Return the runs that did not reach the loss; `why` says what happened."""
        return [run for run in self.runs if not run.reached]


@with_gradients
def fit_matched(
    make_model: Callable[[], nn.Module],
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    *,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    stop_at_loss: float,
    epochs: int,
    stop_every: int | None = None,
    objective: Objective | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    augment: Augment | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> MatchedGrid:
    """Train every cell from every seed with plain SGD, to the same training loss.

    Plain: a constant step size, no weight decay, no clipping. The cells share initial weights where the seed is
    equal. The loss is overshot by what happens between two looks, the more so the larger the step: `stop_every`
    bounds that, and `History.training_loss[-1]` says by how much.

    A run that does not come to the loss in `epochs`, or diverges, is part of the result, marked so; `MatchedRun.model`
    refuses to be used as if it had.

    Args:
        make_model: Makes a network; called once a seed and cell, with torch's generator seeded.
        x: Inputs, on the device to train on.
        y: Labels, int64.
        cells: Settings; see `grid`.
        seeds: Distinct seeds.
        stop_at_loss: The training loss to come to: cross-entropy of all of `x` in evaluation mode.
        epochs: At most so many passes over the data, for every cell.
        stop_every: Steps between two looks; None looks after every epoch.
        objective: What is minimised; cross-entropy by default. The rule looks at cross-entropy in any case.
        validation: `(x, y)` to be scored after every epoch.
        augment: Called as `augment(batch, generator)` on every batch.
        folder: Where each run keeps a checkpoint under a name of its own, to go on from after an interruption.
        progress: A bar over the epochs of each run; by default only in a terminal.

    Returns:
        All runs.

    Raises:
        ValueError: If cells or seeds are empty or repeated, or a setting or the data do not fit; before any training.

    Example:
        >>> import torch
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> runs = fit_matched(
        ...     lambda: nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), cells=grid(lr=[0.001, 1.0]), seeds=[0],
        ...     stop_at_loss=0.3, epochs=40,
        ... )
        >>> [str(cell) for cell in runs.complete()], runs.missed()[0].why
        (['lr1-batch32-momentum0'], 'the training loss is 0.77 after 40 epochs, above 0.3')
    """
    seeds = [plain_number(seed) for seed in seeds]
    for name, values in (("cells", cells), ("seeds", seeds)):
        if not len(values) or len(set(values)) != len(values):
            raise ValueError(f"{name}={list(values)} must be distinct and at least one")
    settings = {
        cell: Settings(epochs=epochs, stop_at_loss=stop_at_loss, stop_every=stop_every, **_plain(cell))
        for cell in cells
    }
    for batch_size in {s.batch_size for s in settings.values()}:
        prepared(seeded(make_model, seeds[0]).to(x.device), x, y, batch_size)

    def runs() -> Iterator[MatchedRun]:
        for cell, seed in itertools.product(cells, seeds):
            model = seeded(make_model, seed).to(x.device)
            try:
                history = fit(
                    model,
                    x,
                    y,
                    epochs=epochs,
                    stop_at_loss=stop_at_loss,
                    stop_every=stop_every,
                    objective=objective,
                    seed=seed,
                    validation=validation,
                    augment=augment,
                    progress=progress,
                    checkpoint=None if folder is None else Path(folder) / f"{cell}-seed{seed}.pt",
                    **_plain(cell),
                )
            except FloatingPointError as error:
                yield MatchedRun(cell, seed, model.eval(), None, f"it diverged: {error}")
                continue
            why = ""
            if history.stopped_at is None:
                last = f"{history.training_loss[-1]:.3g}" if history.training_loss else "not looked at"
                why = f"the training loss is {last} after {epochs} epochs, above {stop_at_loss:g}"
            yield MatchedRun(cell, seed, model, history, why)

    return MatchedGrid(list(runs()))


def fit_matched_each(
    make_model: Callable[[], nn.Module], data: Mapping[int, tuple[Tensor, ...]], **options: Any
) -> MatchedGrid:
    """Train a grid as `fit_matched` does, every seed on data of its own.

    Args:
        make_model: Makes a network.
        data: By seed inputs and labels, first and second of a tuple; what comes after them is not looked at.
        **options: Of `fit_matched`, but for the seeds.

    Returns:
        All runs, cell after cell, within a cell in the order of the seeds.

    Raises:
        ValueError: As `fit_matched`, or if there is no seed.

    Example:
        >>> import torch
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> data = {seed: (x[seed::2], (x[seed::2, 0] > 0.5).long()) for seed in (0, 1)}
        >>> runs = fit_matched_each(
        ...     lambda: nn.Linear(4, 2), data, cells=grid(lr=[0.5, 1.0]), stop_at_loss=0.5, epochs=60
        ... )
        >>> [(run.cell.lr, run.seed, run.reached) for run in runs]
        [(0.5, 0, True), (0.5, 1, True), (1.0, 0, True), (1.0, 1, True)]
    """
    if not data:
        raise ValueError("data is empty; there is no seed to train from")
    found = [
        run
        for seed, (x, y, *_) in data.items()
        for run in fit_matched(make_model, x, y, seeds=[seed], **options)
    ]
    order = list(dict.fromkeys(run.cell for run in found))
    return MatchedGrid(sorted(found, key=lambda run: order.index(run.cell)))


def _plain(cell: Cell) -> dict[str, Any]:
    return {
        "lr": cell.lr,
        "batch_size": cell.batch_size,
        "momentum": cell.momentum,
        "optimizer": "sgd",
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "grad_clip": None,
    }
