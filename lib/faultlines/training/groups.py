"""The training loop for images with a label, a confounder and a foreground."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from faultlines.training import checkpoint as checkpoints
from faultlines.training.device import choose_device
from faultlines.training.group_batches import GroupBatches, as_batch
from faultlines.training.group_checkpoint import group_checkpoint, restore
from faultlines.training.group_history import GroupHistory, Selection, score
from faultlines.training.history import EpochMean
from faultlines.training.initial import seeded
from faultlines.training.objectives.erm import ERM
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupLoss,
    GroupObjective,
    GroupRun,
    MakeModel,
)
from faultlines.training.optimizer import build_optimizer
from faultlines.training.schedule import learning_rate
from faultlines.training.settings import Optimizer, Schedule, Settings

Callback = Callable[[nn.Module, GroupLoss], None]

STAGE_SEED = 7_000_003  # added to the seed of a run that is a stage of another


class GroupData(Protocol):
    """Images with class, confounder and, where it is known, foreground; `data.GroupedImages` is one."""

    x: Float[Tensor, "n channel height width"]
    y: Int[Tensor, " n"]
    c: Int[Tensor, " n"]
    mask: Bool[Tensor, "n height width"] | None


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


def fit_groups(
    make_model: MakeModel,
    train: GroupData,
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
) -> GroupFit:
    """Train a classifier under an objective that sees groups.

    Initial weights, order of samples and flips come from `seed` and from nothing else, so that two objectives
    at equal seed differ in the objective alone. The networks of an objective share an optimizer, which acts
    on every weight by itself.

    Args:
        make_model: From a number of outputs to a fresh network.
        train: Training images; confounders may have any numbers, and a domain is their `environment`, where
            they have one, else the confounder.
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
        callbacks: Each called as `callback(model, loss)` after an epoch, both in evaluation mode.
        checkpoint: File to go on from where it exists, and to write to after every epoch; by default one in
            the folder that `FAULTLINES_CHECKPOINTS` names, if it names one.

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
    objective = ERM() if objective is None else objective
    validation = dict(validation or {})
    if select is not None:
        select = Selection(*select)
        select.check(validation)
    device = choose_device(device) if isinstance(device, str) else device
    data, groups = as_batch(train, device)
    if batch_size > len(data.y):
        raise ValueError(f"batch_size={batch_size} exceeds the number of samples, {len(data.y)}")
    classes, confounders = int(data.y.max()) + 1, int(data.c.max()) + 1

    def stage(of: GroupObjective, share: float) -> nn.Module:
        return fit_groups(
            make_model, train, epochs=max(1, round(share * epochs)), objective=of, seed=seed + STAGE_SEED,
            batch_size=batch_size, lr=lr, optimizer=optimizer, weight_decay=weight_decay, warmup=warmup,
            schedule=schedule, flip=flip, device=device,
        ).model  # fmt: skip

    outputs = confounders if getattr(objective, "label", "y") == "c" else classes
    model = seeded(lambda: make_model(outputs), seed).to(device)
    loss_of = objective.start(GroupRun(make_model, data, groups, classes, confounders, seed, stage)).to(
        device
    )
    both = nn.ModuleDict({"model": model, "loss": loss_of})
    batches = GroupBatches(data, batch_size=batch_size, seed=seed, flip=flip)
    stepper = build_optimizer(both, settings)
    history, best = GroupHistory(), None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout draws from the global generator
        run = checkpoints.identity(
            both, data.x, torch.stack([data.y, data.c]), settings, objective, seed, None
        )
        run |= {"flip": repr(flip), "select": repr(select), "validation": repr(sorted(validation))}
        if checkpoint is None and checkpoints.wanted() and not callbacks:  # a callback may keep a record
            checkpoint = group_checkpoint(
                run, model, loss_of, batches, validation, steps=epochs * len(batches)
            )
        state = None if checkpoint is None else checkpoints.load(Path(checkpoint), run)
        if state is not None:
            history, best = restore(state, both, stepper, batches)
        start = time.perf_counter() - history.seconds
        for epoch in range(len(history.loss), epochs):
            both.train()
            mean = EpochMean()
            for step, batch in enumerate(batches.epoch(), start=epoch * len(batches)):
                for group in stepper.param_groups:
                    group["lr"] = learning_rate(step, epochs * len(batches), settings)
                stepper.zero_grad(set_to_none=True)
                loss, terms = loss_of(model, batch, Clock(step, epochs * len(batches)))
                loss.backward()
                stepper.step()
                mean.add(loss, terms, len(batch.y))
            loss, terms = mean.read()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"loss is {loss.item()} in epoch {epoch + 1} of {epochs} under {objective!r}"
                )
            both.eval()
            history.add(loss.item(), {name: value.item() for name, value in terms.items()})
            for callback in callbacks:
                callback(model, loss_of)
            for name, held_out in validation.items():
                history.score(name, score(model, held_out, device))
            if select is not None and history.selected(*select) == epoch:
                best = {name: value.clone() for name, value in model.state_dict().items()}
            history.seconds = time.perf_counter() - start
            if checkpoint is not None:
                checkpoints.save(
                    Path(checkpoint),
                    {"run": run, "both": both.state_dict(), "optimizer": stepper.state_dict(), "best": best,
                     "batches": batches.state(), "history": asdict(history), "random": torch.get_rng_state()},
                )  # fmt: skip
    if best is not None:
        model.load_state_dict(best)
    both.eval()
    return GroupFit(model, loss_of, history, epochs if select is None else history.selected(*select) + 1)
