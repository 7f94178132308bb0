"""Training on images with a label, a confounder and a foreground; the choice of an epoch by validation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from faultlines.estimators.forward import with_gradients
from faultlines.estimators.groups import GroupAccuracy, Measure, group_accuracy
from faultlines.models.inference import predictions
from faultlines.training import checkpoint as checkpoints
from faultlines.training.checkpoint import Checkpoint
from faultlines.training.group_batches import GroupBatches, GroupData, GroupLoaderBatches, as_batch
from faultlines.training.loop import Callback, History, State, Terms, Training
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
    MakeModel,
    as_floats,
    at_once,
)
from faultlines.training.objectives.reweighting import ERM
from faultlines.training.optimizer import (
    Optimizer,
    Schedule,
    Settings,
    build_optimizer,
    check_single,
    choose_device,
    plain_number,
    precision,
)
from faultlines.training.seeding import seeded

STAGE_SEED = 7_000_003  # added to the seed of a run that is a stage of another


class Selection(NamedTuple):
    """A rule to choose an epoch by.

    Attributes:
        name: Name of a validation set.
        by: `"average"` or `"worst"`.
    """

    name: str
    by: Measure = "worst"

    def check(self, validation: Mapping[str, object]) -> None:
        """Refuse a rule that cannot, or must not, be applied.

        Raises:
            ValueError: If the set is not among those given or is a test set, or the measure is unknown.
        """
        if self.name not in validation:
            raise ValueError(
                f"select={self.name!r} is not the name of a validation set: {', '.join(validation) or 'none is given'}"
            )
        if getattr(validation[self.name], "split", "") == "test":
            raise ValueError(f"select={self.name!r} is a test set; a choice that has seen it leaves no test")
        if self.by not in get_args(Measure):
            raise ValueError(f"select by {self.by!r} is not one of {get_args(Measure)}")


@dataclass
class GroupHistory(History):
    """Means over each epoch, in order, and scores after it.

    Attributes:
        average: Average accuracy on each validation set.
        worst: Worst-group accuracy there.
    """

    average: dict[str, list[float]] = field(default_factory=dict)
    worst: dict[str, list[float]] = field(default_factory=dict)

    def score(self, name: str, found: GroupAccuracy) -> None:
        """Append the score on one validation set."""
        self.average.setdefault(name, []).append(found.average)
        self.worst.setdefault(name, []).append(found.worst)

    def selected(self, name: str, by: Measure = "worst") -> int:
        """Return the epoch, from 0, of the best score; the earliest of equals.

        Example:
            >>> GroupHistory(worst={"held out": [0.1, 0.4, 0.4]}).selected("held out")
            1
        """
        values = getattr(self, by)[name]
        return values.index(max(values))


@torch.no_grad()
def score(model: nn.Module, data: GroupData, device: torch.device, batch_size: int = 512) -> GroupAccuracy:
    """Return a model's accuracies on a set, the model in its present mode.

    Args:
        model: Maps images to logits.
        data: Holds `x`, `y`, `c` and, maybe, `split`.
        device: Where the model is.
        batch_size: Images at once, at most: large ones are fewer.

    Raises:
        ValueError: If the model answers NaN.
    """
    dtype, parts = precision(model), data.x.split(at_once(data.x, batch_size))
    found = torch.cat([predictions(model(as_floats(x.to(device), dtype))) for x in parts])
    return group_accuracy(found.cpu(), data.y.cpu(), data.c.cpu(), split=getattr(data, "split", ""))


@dataclass(frozen=True)
class GroupFit:
    """What a run on group data leaves.

    Attributes:
        model: The label's classifier, in evaluation mode, as it was after `epoch` epochs.
        loss: The objective's loss with its state; of `EX2L`, with the confounder's classifier at the end.
        history: What happened.
        epoch: Epoch of the model, counted from 1.
    """

    model: nn.Module
    loss: GroupLoss
    history: GroupHistory
    epoch: int


@with_gradients
def fit_groups(
    make_model: MakeModel,
    train: GroupData | DataLoader[Any],
    *,
    epochs: int,
    objective: GroupObjective | None = None,
    seed: int = 0,
    batch_size: int = 64,
    lr: float = 2e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 1e-4,
    warmup: float = 0.3,
    schedule: Schedule = "onecycle",
    flip: bool = True,
    validation: Mapping[str, GroupData] | None = None,
    select: Selection | None = None,
    device: str | torch.device = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> GroupFit:
    """Train a classifier under an objective that sees groups.

    Initial weights, order of samples and flips come from `seed` and from nothing else, so that two objectives
    at equal seed differ in the objective alone. The networks of an objective share an optimizer, which acts
    on every weight by itself.

    Args:
        make_model: From a number of outputs to a fresh network.
        train: Training images; confounders may have any numbers, and a domain is their `environment`, where
            they have one, else the confounder. Or a DataLoader of `(x, y, c)` or `(x, y, c, mask)`, whose order and
            batch size are its own: its labels are read once at the start, its images as training goes. It gets no
            checkpoint but the one that `checkpoint` names; `JTT`, which looks at all images at once, takes none.
        epochs: Passes over them.
        objective: By default `ERM()`.
        seed: Seed of everything.
        batch_size: Images a step.
        lr: Peak learning rate.
        optimizer: `"adamw"` or `"sgd"`.
        weight_decay: See `Settings`.
        warmup: Share of all steps in which the learning rate rises.
        schedule: See `learning_rate`.
        flip: Whether half of the images of a batch are mirrored, with their masks.
        validation: Sets whose average and worst-group accuracy are recorded after every epoch.
        select: Name of such a set and `"average"` or `"worst"`: the model returned is that of the epoch which
            scored best there, the earliest of equals; by default the last epoch's.
        device: Where to compute.
        callbacks: Each called with the `State` of the run after an epoch, the networks in evaluation mode; its
            `objective` is the loss of the run.
        checkpoint: File to go on from where it exists, and to write to after every epoch; by default one in
            the folder that `FAULTLINES_CHECKPOINTS` names, if it names one.
        progress: A bar over epochs; by default only in a terminal.

    Raises:
        ValueError: If a setting, the data, the selection or the checkpoint does not fit; before any step.
        FloatingPointError: If the loss is not finite.

    Example:
        >>> from faultlines.data.spurious import spurious_benchmark
        >>> from faultlines.models import SmallCNN
        >>> data = spurious_benchmark("m2m_hard", n_train=4, n_validation=2, n_test=2, size=32)
        >>> held_out = {"same cells": data.validation}
        >>> found = fit_groups(
        ...     lambda k: SmallCNN(classes=k), data.train, epochs=1, batch_size=8, validation=held_out
        ... )
        >>> len(found.history.average["same cells"])
        1
    """
    settings = Settings(
        epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer, weight_decay=weight_decay,
        warmup=warmup, schedule=schedule, grad_clip=None,
    )  # fmt: skip
    objective, seed = ERM() if objective is None else objective, plain_number(seed)
    batch_size = plain_number(batch_size)
    validation = dict(validation or {})
    if select is not None:
        select = Selection(*select)
        select.check(validation)
    device = choose_device(device)
    if isinstance(train, DataLoader):
        batches: GroupBatches = (read := GroupLoaderBatches(train, device=device, seed=seed, flip=flip))
        data, groups = read.data, read.groups
        settings = replace(settings, batch_size=read.batch_size)
    else:
        data, groups = as_batch(train, device)
        batches = GroupBatches(data, batch_size=batch_size, seed=seed, flip=flip)
    if settings.batch_size > len(data.y):
        raise ValueError(f"batch_size={batch_size} exceeds the number of samples, {len(data.y)}")
    classes, confounders = int(data.y.max()) + 1, int(data.c.max()) + 1

    def stage(of: GroupObjective, share: float) -> nn.Module:
        return fit_groups(
            make_model, train, epochs=max(1, round(share * epochs)), objective=of, seed=seed + STAGE_SEED,
            batch_size=batch_size, lr=lr, optimizer=optimizer, weight_decay=weight_decay, warmup=warmup,
            schedule=schedule, flip=flip, device=device, progress=progress,
        ).model  # fmt: skip

    outputs = confounders if getattr(objective, "label", "y") == "c" else classes
    model = seeded(lambda: make_model(outputs), seed).to(device)
    batches.dtype = precision(model)
    last = len(data.y) % settings.batch_size
    if 1 in (settings.batch_size, last) and not (isinstance(train, DataLoader) and train.drop_last):
        one = as_floats(batches.one().to(device), batches.dtype)
        check_single(model, one, len(data.y), settings.batch_size)
    loss_of = objective.start(GroupRun(make_model, data, groups, classes, confounders, seed, stage)).to(
        device
    )
    both = nn.ModuleDict({"model": model, "loss": loss_of})
    state = State(model, GroupHistory(), loss_of, 0, epochs * len(batches))
    training = GroupTraining(
        both, batches, settings, build_optimizer(both, settings), state, seed=seed, device=device
    )
    training.name, training.validation, training.select = repr(objective), validation, select
    keep = None
    # a callback may keep a record of its own, which a checkpoint does not hold
    if checkpoint is not None or (
        checkpoints.wanted() and not callbacks and not isinstance(train, DataLoader)
    ):
        labels = torch.stack([data.y, data.c])
        run = checkpoints.identity(
            both, (data.x, labels), settings, objective, seed=seed, flip=flip, select=select,
            validation=sorted(validation),
        )  # fmt: skip
        if isinstance(train, DataLoader):
            run["data"] += f" {len(batches)} batches of {type(train.dataset).__name__}"
        if checkpoint is None:
            checkpoint = training.automatic(run)
        keep = Checkpoint(Path(checkpoint), run)
    training.run(callbacks=callbacks, progress=progress, checkpoint=keep)
    if training.best is not None:
        model.load_state_dict(training.best)
    epoch = epochs if select is None else state.history.selected(*select) + 1
    return GroupFit(model, loss_of, state.history, epoch)


class GroupTraining(Training[GroupHistory]):
    """Training on batches that hold more of a sample than its label, with the choice of an epoch."""

    batches: GroupBatches
    name: str
    validation: dict[str, GroupData]
    select: Selection | None
    best: dict[str, Tensor] | None = None

    def loss(self, batch: GroupBatch, step: int) -> LossAndTerms:
        """Return the loss of the run and its terms."""
        return self.state.objective(self.state.model, batch, Clock(step, self.state.steps))

    def size(self, batch: GroupBatch) -> int:
        """Return how many images a batch holds."""
        return len(batch.y)

    def describe(self) -> str:
        """Return what is minimised."""
        return self.name

    def score(self) -> None:
        """Score the validation sets, and keep the weights of the best epoch."""
        history, model = self.state.history, self.state.model
        for name, held_out in self.validation.items():
            try:
                history.score(name, score(model, held_out, self.device))
            except ValueError as error:  # as a loss that is not finite
                raise FloatingPointError(f"{error}, of {name!r} under {self.describe()}") from error
        if self.select is not None and history.selected(*self.select) == self.state.epoch - 1:
            self.best = {name: value.clone() for name, value in model.state_dict().items()}

    def held(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {**super().held(), "best": self.best}

    def take(self, held: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        super().take(held)
        self.best = held["best"]

    def automatic(self, run: dict[str, str]) -> Path:
        """Return the file of the run in the folder that `FAULTLINES_CHECKPOINTS` names."""
        loss_of, steps, whole = self.state.objective, self.state.steps, self.batches.data
        first = whole.map(lambda t: t[: self.batches.batch_size].to(self.device)).floating(self.batches.dtype)

        def begin(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Terms]:
            # a copy, for a loss may hold state; and the last step, whose loss holds every term
            return copy.deepcopy(loss_of).train()(model, first, Clock(steps - 1, steps))

        sets = tuple(value for part in self.validation.values() for value in (part.x, part.y, part.c))
        step = checkpoints.first_step(self.state.model, begin, first.x, first.y)
        return checkpoints.automatic(run, [self.state.model, loss_of], sets, step)
