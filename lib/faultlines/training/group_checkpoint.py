"""Where a run on group data is kept, and how it is taken up again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from faultlines.training import checkpoint as checkpoints
from faultlines.training.group_batches import GroupBatches, as_floats
from faultlines.training.group_history import GroupHistory
from faultlines.training.objectives.group_objective import Clock, GroupBatch, GroupLoss, LossAndTerms


def group_checkpoint(
    run: dict[str, str],
    model: nn.Module,
    loss_of: GroupLoss,
    batches: GroupBatches,
    validation: Mapping[str, object],
    *,
    steps: int,
) -> Path:
    """Return the file of a run in the folder that `FAULTLINES_CHECKPOINTS` names.

    Args:
        run: What `checkpoint.identity` says.
        model: The label's classifier, untrained.
        loss_of: The loss, with whatever networks it brings along.
        batches: The run's batches, of which none is drawn.
        validation: The sets that are scored after every epoch.
        steps: Steps of the run; the loss of the last one holds every term.
    """
    first = GroupBatch(*(None if t is None else t[: batches.batch_size] for t in batches.data))
    first = first._replace(x=as_floats(first.x))

    def begin(model: nn.Module, x: Tensor, y: Tensor) -> LossAndTerms:
        return copy.deepcopy(loss_of).train()(model, first, Clock(steps - 1, steps))  # a loss may hold state

    sets = tuple(value for part in validation.values() for value in (part.x, part.y, part.c))
    step = checkpoints.first_step(model, begin, first.x, first.y)
    return checkpoints.automatic(run, [model, loss_of], sets, step)


def restore(
    state: dict, both: nn.ModuleDict, stepper: torch.optim.Optimizer, batches: GroupBatches
) -> tuple[GroupHistory, dict[str, Tensor] | None]:
    """Put a run back to where its checkpoint was written; return its history and the best weights so far."""
    both.load_state_dict(state["both"])
    stepper.load_state_dict(state["optimizer"])
    batches.restore(state["batches"])
    torch.set_rng_state(state["random"])
    return GroupHistory(**state["history"]), state["best"]
