"""Training a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from faultlines.estimators.forward import with_gradients
from faultlines.models.inference import logits_of
from faultlines.models.pixel_normalization import check_tensor
from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Augment, Batches, LoaderBatches
from faultlines.training.checkpoint import Checkpoint
from faultlines.training.loop import Callback, History, State, Terms, Training
from faultlines.training.objectives.objective import CrossEntropy, Objective
from faultlines.training.optimizer import (
    Optimizer,
    Schedule,
    Settings,
    build_optimizer,
    check_single,
    evaluating,
    plain_number,
    precision,
    prepared,
)

Pairs = Iterable[tuple[Tensor, Tensor]]


@with_gradients
def fit(
    model: nn.Module,
    x: Float[Tensor, "n ..."] | DataLoader[Any],
    y: Int[Tensor, " n"] | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 2e-3,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 0.05,
    momentum: float = 0.9,
    warmup: float = 0.1,
    schedule: Schedule = "cosine",
    grad_clip: float | None = 1.0,
    stop_at_loss: float | None = None,
    stop_every: int | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    validation: tuple[Tensor, Tensor] | DataLoader[Any] | None = None,
    augment: Augment | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train a classifier in place and return what happened.

    Tensors are held on the model's device, a DataLoader is read as it goes. The order of samples, augmentation and
    dropout come from `seed`, the initial weights from the model as given (see `seeded`); the caller's global
    generator is left as it was. The model is left in evaluation mode.

    Args:
        model: Maps inputs to logits.
        x: Inputs; images are in [0, 1], for normalisation is the model's own. They get the precision of the model's
            weights. Or a DataLoader of inputs and labels, whose order and batch size are its own; it gets no
            checkpoint but the one that `checkpoint` names, for no name could hold its data.
        y: Labels, integers; none with a DataLoader.
        epochs: Passes over the data.
        batch_size: Samples a step.
        lr: Peak learning rate.
        optimizer: `"adamw"` or `"sgd"`.
        weight_decay: Acts on weight matrices only; see `decays`.
        momentum: Of SGD.
        warmup: Share of all steps in which the learning rate rises.
        schedule: `"cosine"`, `"constant"` or `"onecycle"`; see `learning_rate`.
        grad_clip: Largest norm of the whole gradient, or None.
        stop_at_loss: End early, once the cross-entropy of the training set, in evaluation mode and without
            augmentation, is at most this. Whether it was, `History.stopped_at` says: it is None where all `epochs`
            went by without.
        stop_every: Steps between two looks at that loss; each costs a forward pass over `x`. None looks after
            every epoch.
        objective: What is minimised; cross-entropy by default.
        seed: Seed of everything random in the loop.
        validation: `(x, y)`, or a DataLoader, to be scored after every epoch.
        augment: Called as `augment(batch, generator)` on every batch; `CropFlip`, say.
        progress: A bar over epochs; by default only in a terminal.
        checkpoint: File to continue from where it exists, and to write to; the continued run equals an
            uninterrupted one bit for bit on the same machine.
        checkpoint_every: Epochs between two checkpoints; the last epoch always writes one.
        callbacks: Each called with the `State` of the run after an epoch, the model in evaluation mode.

    Returns:
        Epoch means of the loss and its terms, the learning rate, and the validation scores.

    Raises:
        TypeError: If the data are neither tensors nor a DataLoader.
        ValueError: If a setting, the data or the checkpoint does not fit; before any step.
        FloatingPointError: If the loss is not finite; the message names step, learning rate and objective.

    Example:
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> history = fit(nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), epochs=40, batch_size=16, lr=0.1)
        >>> history.loss[-1] < 0.3 < history.loss[0]
        True
    """
    loader, seed = x if isinstance(x, DataLoader) else None, plain_number(seed)
    batch_size = plain_number(batch_size)
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size if loader is None else loader.batch_size or 1,
        lr=lr,
        optimizer=optimizer,
        weight_decay=weight_decay,
        momentum=momentum,
        warmup=warmup,
        schedule=schedule,
        grad_clip=grad_clip,
        stop_at_loss=stop_at_loss,
        stop_every=stop_every,
    )
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every} must be at least 1")
    objective = CrossEntropy() if objective is None else objective
    device = next(model.parameters()).device
    batches, data = _batches(model, x, y, batch_size, seed=seed, augment=augment)
    held_out = _validation(model, validation, device)
    state = State(model, History(), objective, 0, epochs * len(batches))
    training = ClassifierTraining(
        model, batches, settings, build_optimizer(model, settings), state, seed=seed, device=device
    )
    training.held_out = held_out
    keep = None
    # a callback may keep a record of its own, which a checkpoint does not hold
    if checkpoint is not None or (checkpoints.wanted() and not callbacks and loader is None):
        run = checkpoints.identity(model, data, settings, objective, seed=seed, augment=augment)
        if loader is not None:
            run["data"] += f" {len(batches)} batches of {type(loader.dataset).__name__}"
        if checkpoint is None:
            step = checkpoints.first_step(model, objective, *(part[:batch_size] for part in data))
            given = held_out if isinstance(held_out, tuple) else ()
            checkpoint = checkpoints.automatic(run, [model], given, step)
        keep = Checkpoint(Path(checkpoint), run, every=checkpoint_every)
    training.run(callbacks=callbacks, progress=progress, checkpoint=keep)
    return state.history


class ClassifierTraining(Training[History]):
    """Training on inputs and labels, with a stop at a training loss and scores on a validation set."""

    batches: Batches | LoaderBatches
    held_out: tuple[Tensor, Tensor] | LoaderBatches | None = None

    def loss(self, batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Terms]:
        """Return the objective and its terms."""
        return self.state.objective(self.model, *batch)

    def after_step(self) -> None:
        """End the run where the training loss is low enough."""
        settings, history, step = self.settings, self.state.history, self.state.step
        if settings.stop_at_loss is None or step % (settings.stop_every or len(self.batches)):
            return
        history.training_loss.append(_mean_loss(self.model, _all_of(self.batches)))
        history.training_step.append(step)
        if history.training_loss[-1] <= settings.stop_at_loss:
            history.stopped_at = step
            self.state.over = True

    def score(self) -> None:
        """Score the validation set."""
        if self.held_out is None:
            return
        parts = (
            self.held_out.in_order() if isinstance(self.held_out, LoaderBatches) else _split(*self.held_out)
        )
        with torch.no_grad():
            found = [(logits_of(self.model(x)), y) for x, y in parts]
        logits, y = (torch.cat(values) for values in zip(*found, strict=True))
        self.state.history.validation_loss.append(F.cross_entropy(logits, y).item())
        right = torch.where(logits.isnan().any(dim=1), torch.nan, (logits.argmax(dim=1) == y).double())
        self.state.history.validation_accuracy.append(right.mean().item())

    def take(self, held: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        super().take(held)
        self.state.over = self.state.history.stopped_at is not None


def training_loss(model: nn.Module, x: Float[Tensor, "n ..."], y: Int[Tensor, " n"]) -> float:
    """Return the mean cross-entropy over `(x, y)` in evaluation mode; the modes stay as they are.

    Evaluation mode, because it is the network that is measured afterwards: batch normalisation takes its running
    statistics and dropout is off.

    Example:
        >>> round(training_loss(nn.Identity(), torch.zeros(3, 10), torch.tensor([1, 5, 9])), 4)  # log 10
        2.3026
    """
    return _mean_loss(model, _split(check_tensor(x, "x"), check_tensor(y, "y")))


@torch.no_grad()
def _mean_loss(model: nn.Module, pairs: Pairs) -> float:
    total, count = torch.zeros(()), 0
    with evaluating(model):
        for x, y in pairs:
            part = F.cross_entropy(logits_of(model(x)), y, reduction="sum")
            total, count = (total + part if count else part), count + len(x)
    return float(total) / count


def _split(x: Tensor, y: Tensor) -> Pairs:
    return zip(x.split(1024), y.split(1024), strict=True)


def _all_of(batches: Batches | LoaderBatches) -> Pairs:
    return batches.in_order() if isinstance(batches, LoaderBatches) else _split(batches.x, batches.y)


def _batches(
    model: nn.Module,
    x: Tensor | DataLoader[Any],
    y: Tensor | None,
    batch_size: int,
    *,
    seed: int,
    augment: Augment | None,
) -> tuple[Batches | LoaderBatches, tuple[Tensor, Tensor]]:
    """Return checked batches, and all data; of a DataLoader its first batch."""
    device = next(model.parameters()).device
    if isinstance(x, DataLoader):
        if y is not None:
            raise ValueError("y is given with a DataLoader, which holds the labels itself")
        batches = LoaderBatches(x, device=device, dtype=precision(model), seed=seed, augment=augment)
        first = prepared(model, *batches.draw(torch.arange(min(batches.batch_size, batches.n))))
        if not x.drop_last:
            check_single(model, first[0][:1], batches.n, batches.batch_size)
        return batches, first
    data = prepared(model, _on(device, x), _on(device, y), batch_size)
    return Batches(*data, batch_size=batch_size, seed=seed, augment=augment), data


def _on(device: torch.device, values: Any) -> Any:
    """Return a tensor on a device, and what is none as it is, for `prepared` to name."""
    return values.to(device) if isinstance(values, Tensor) else values


def _validation(
    model: nn.Module, given: tuple[Tensor, Tensor] | DataLoader[Any] | None, device: torch.device
) -> tuple[Tensor, Tensor] | LoaderBatches | None:
    if given is None:
        return None
    if isinstance(given, DataLoader):
        batches = LoaderBatches(given, device=device, dtype=precision(model), seed=0)
        prepared(model, *batches.draw(torch.arange(1)), name="validation ")
        return batches
    x, y = given
    return prepared(model, _on(device, x), _on(device, y), name="validation ")
