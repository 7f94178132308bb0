"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Augment, Batches
from faultlines.training.history import EpochMean, History
from faultlines.training.objectives.cross_entropy import CrossEntropy
from faultlines.training.objectives.objective import Objective
from faultlines.training.optimizer import build_optimizer
from faultlines.training.progress import EpochsBar
from faultlines.training.schedule import learning_rate
from faultlines.training.settings import Optimizer, Schedule, Settings, check_data
from faultlines.training.stop import StopRule

Callback = Callable[[nn.Module, History], None]


def fit(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
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
    validation: tuple[Tensor, Tensor] | None = None,
    augment: Augment | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train a classifier in place and return what happened.

    The data are held on the model's device. The order of samples, augmentation and dropout come from `seed`,
    the initial weights from the model as given (see `seeded`); the caller's global generator is left as it
    was. The model is left in evaluation mode.

    Args:
        model: Maps inputs to logits.
        x: Inputs; images are in [0, 1], for normalisation is the model's own.
        y: Labels, int64.
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
        validation: `(x, y)` to be scored after every epoch.
        augment: Called as `augment(batch, generator)` on every batch; `CropFlip`, say.
        progress: A bar over epochs; by default only in a terminal.
        checkpoint: File to continue from where it exists, and to write to; the continued run equals an
            uninterrupted one bit for bit on the same machine.
        checkpoint_every: Epochs between two checkpoints; the last epoch always writes one.
        callbacks: Each called as `callback(model, history)` after an epoch, the model in evaluation mode.

    Returns:
        Epoch means of the loss and its terms, the learning rate, and the validation scores.

    Raises:
        ValueError: If a setting, the data or the checkpoint does not fit; before any step.
        FloatingPointError: If the loss is not finite; the message names step, learning rate and objective.

    Example:
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> history = fit(nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), epochs=40, batch_size=16, lr=0.1)
        >>> history.loss[-1] < 0.3 < history.loss[0]
        True
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
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
    x, y = x.to(device), y.to(device)
    check_data(model, x, y, batch_size)
    if validation is not None:
        validation = (validation[0].to(device), validation[1].to(device))
        check_data(model, *validation, name="validation ")

    batches = Batches(x, y, batch_size=batch_size, seed=seed, augment=augment)
    steps = epochs * len(batches)
    stepper = build_optimizer(model, settings)
    stop = StopRule(settings, x, y, len(batches))
    history = History()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout draws from the global generator
        # a callback may keep a record of its own, which a checkpoint does not hold
        if checkpoint is not None or (checkpoints.wanted() and not callbacks):
            run = checkpoints.identity(model, x, y, settings, objective, seed, augment)
            if checkpoint is None:
                step = checkpoints.first_step(model, objective, x[:batch_size], y[:batch_size])
                checkpoint = checkpoints.automatic(run, [model], validation, step)
            checkpoint = Path(checkpoint)
            state = checkpoints.load(checkpoint, run)
            if state is not None:
                history = _restore(state, model, stepper, batches, device)
        start = time.perf_counter() - history.seconds
        done = len(history.loss)
        with EpochsBar(epochs, done=done, progress=progress) as bar:
            for epoch in range(done, epochs):
                if history.stopped_at is not None:
                    break
                model.train()
                mean = EpochMean()
                for step, (xb, yb) in enumerate(batches.epoch(), start=epoch * len(batches)):
                    rate = learning_rate(step, steps, settings)
                    loss, terms = _step(model, stepper, objective, xb, yb, rate, grad_clip)
                    mean.add(loss, terms, len(xb))
                    if device.type == "cpu" and not math.isfinite(loss.item()):
                        raise FloatingPointError(_not_finite(loss, step, steps, rate, objective))
                    if stop.met(model, history, step + 1):
                        break
                loss, terms = mean.read()
                # an accelerator is asked here, once an epoch: asking at every step would make it wait
                if not math.isfinite(loss.item()):
                    raise FloatingPointError(_not_finite(loss, step, steps, rate, objective))
                history.add(loss.item(), rate, {name: value.item() for name, value in terms.items()})
                model.eval()
                if validation is not None:
                    _validate(model, *validation, history)
                for callback in callbacks:
                    callback(model, history)
                bar.update(history)
                history.seconds = time.perf_counter() - start
                last = epoch + 1 == epochs or history.stopped_at is not None
                if checkpoint is not None and ((epoch + 1) % checkpoint_every == 0 or last):
                    checkpoints.save(
                        checkpoint, {"run": run, **_state(model, stepper, batches, history, device)}
                    )
    model.eval()
    return history


def _step(
    model: nn.Module,
    stepper: torch.optim.Optimizer,
    objective: Objective,
    x: Tensor,
    y: Tensor,
    rate: float,
    grad_clip: float | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    for group in stepper.param_groups:
        group["lr"] = rate
    stepper.zero_grad(set_to_none=True)
    loss, terms = objective(model, x, y)
    loss.backward()
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    stepper.step()
    return loss.detach(), terms


def _not_finite(loss: Tensor, step: int, steps: int, rate: float, objective: Objective) -> str:
    return f"loss is {loss.item()} at step {step + 1} of {steps} with lr {rate:.3g} under {objective!r}"


def _validate(model: nn.Module, x: Tensor, y: Tensor, history: History) -> None:
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in x.split(1024)])
    history.validation_loss.append(F.cross_entropy(logits, y).item())
    history.validation_accuracy.append((logits.argmax(dim=1) == y).double().mean().item())


def _state(
    model: nn.Module,
    stepper: torch.optim.Optimizer,
    batches: Batches,
    history: History,
    device: torch.device,
) -> dict:
    return {
        "model": model.state_dict(),
        "optimizer": stepper.state_dict(),
        "batches": batches.state(),
        "history": asdict(history),
        "random": torch.get_rng_state(),
        "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore(
    state: dict,
    model: nn.Module,
    stepper: torch.optim.Optimizer,
    batches: Batches,
    device: torch.device,
) -> History:
    model.load_state_dict(state["model"])
    stepper.load_state_dict(state["optimizer"])
    batches.restore(state["batches"])
    torch.set_rng_state(state["random"])
    if state["random_device"] is not None:
        torch.cuda.set_rng_state(state["random_device"], device)
    return History(**state["history"])
