"""The loop that every kind of minibatch training runs: epochs of steps, a checkpoint, a bar, callbacks."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from faultlines.training.batches import Stream
from faultlines.training.checkpoint import Checkpoint, discard
from faultlines.training.history import EpochMean, EpochsBar, History
from faultlines.training.seeding import global_state, own_draws, set_global_state
from faultlines.training.settings import Settings, learning_rate

Terms = dict[str, Tensor]
H = TypeVar("H", bound=History)


@dataclass
class State(Generic[H]):
    """Where a training run is, as its callbacks see it.

    Attributes:
        model: The network that is trained.
        history: What happened so far.
        objective: What is minimised; under `fit_groups` the loss of the run with its own state, a second network, say.
        step: Steps taken.
        steps: Steps of the whole run, if nothing ends it before.
        over: Whether the run ends after this step; a callback may set it.
    """

    model: nn.Module
    history: H
    objective: Any
    step: int
    steps: int
    over: bool = False

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return len(self.history.loss)


Callback = Callable[[State[Any]], None]


class Training(ABC, Generic[H]):
    """One run. A kind of training says what the loss of a batch is, and overrides what else it does differently.

    Args:
        model: All that is trained.
        batches: Where batches come from.
        settings: Of the run; its batch size is that of `batches`.
        stepper: Updates the weights.
        state: Of a run that has not begun.
        seed: Of what is drawn from torch's global generator.
        device: Where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Stream,
        settings: Settings,
        stepper: torch.optim.Optimizer | None,
        state: State[H],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.batches, self.settings, self.stepper, self.state = (
            model,
            batches,
            settings,
            stepper,
            state,
        )
        self.seed, self.device = seed, device

    # what kinds differ in

    @abstractmethod
    def loss(self, batch: Any, step: int) -> tuple[Tensor, Terms]:
        """Return the loss of a batch and its terms."""

    def size(self, batch: Any) -> int:
        """Return how many samples a batch holds; one of none is passed over."""
        return len(batch[0])

    def rate(self, step: int) -> Any:
        """Return the learning rate of a step."""
        return learning_rate(step, self.state.steps, self.settings)

    def update(self, batch: Any, step: int, rate: Any) -> tuple[Tensor, Terms]:
        """Take one step; return the loss before it, and its terms."""
        assert self.stepper is not None
        for group in self.stepper.param_groups:
            group["lr"] = rate
        self.stepper.zero_grad(set_to_none=True)
        loss, terms = self.loss(batch, step)
        loss.backward()
        if self.settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        self.stepper.step()
        return loss.detach(), terms

    def describe(self) -> str:
        """Return what is minimised, for messages."""
        return repr(self.state.objective)

    def after_step(self) -> None:
        """Look at the run after a step."""

    def record(self, loss: Tensor, terms: Terms, rate: Any) -> None:
        """Put the means of an epoch into the history."""
        self.state.history.add(loss.item(), rate, {name: value.item() for name, value in terms.items()})

    def score(self) -> None:
        """Score the model after an epoch; it is in evaluation mode."""

    def check_finite(self, loss: Tensor, step: int, rate: Any) -> None:
        """Raise FloatingPointError if the loss is not finite."""
        if not loss.isfinite():
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step + 1} of {self.state.steps} with lr {rate:.3g} "
                f"under {self.describe()}"
            )

    def held(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": None if self.stepper is None else self.stepper.state_dict(),
            "batches": self.batches.state(),
            "history": asdict(self.state.history),
            **global_state(self.device),
        }

    def take(self, held: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        self.model.load_state_dict(held["model"])
        if self.stepper is not None:
            self.stepper.load_state_dict(held["optimizer"])
        self.batches.restore(held["batches"])
        set_global_state(held, self.device)
        refill(self.state.history, held["history"])

    # what they share

    def run(
        self,
        *,
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Train to the end, from where the checkpoint is."""
        with (
            nullcontext() if checkpoint is None else checkpoint.alone(),
            own_draws(self.seed, self.device),
        ):
            if checkpoint is not None:
                self._resume(checkpoint)
            self._train(callbacks, progress, checkpoint)
        self.model.eval()
        if not all(bool(weights.isfinite().all()) for weights in self.model.parameters()):
            # a loss may be finite where its gradient is not, and no later loss tells of the last step
            raise FloatingPointError(f"the weights are not finite after training under {self.describe()}")

    def _train(
        self, callbacks: Sequence[Callback], progress: bool | None, checkpoint: Checkpoint | None
    ) -> None:
        epochs, history = self.settings.epochs, self.state.history
        start, done = time.perf_counter() - history.seconds, len(history.loss)
        with EpochsBar(epochs, done=done, progress=progress) as bar:
            for epoch in range(done, epochs):
                if self.state.over:
                    break
                self._epoch(epoch)
                self.model.eval()
                self.score()
                for callback in callbacks:
                    callback(self.state)
                bar.update(**history.latest())
                history.seconds = time.perf_counter() - start
                last = epoch + 1 == epochs or self.state.over
                if checkpoint is not None and (last or checkpoint.due(epoch + 1)):
                    checkpoint.save(self.held())

    def _epoch(self, epoch: int) -> None:
        self.model.train()
        mean, per_epoch = EpochMean(), len(self.batches)
        step, rate = epoch * per_epoch, None
        for step, batch in enumerate(self.batches.epoch(), start=epoch * per_epoch):
            rate = self.rate(step)
            if not (count := self.size(batch)):
                continue
            loss, terms = self.update(batch, step, rate)
            mean.add(loss, terms, count)
            if self.device.type == "cpu":
                self.check_finite(loss, step, rate)
            self.state.step = step + 1
            self.after_step()
            if self.state.over:
                break
        loss, terms = mean.read()
        # an accelerator is asked here, once an epoch: asking at every step would make it wait
        self.check_finite(loss, step, rate)
        self.record(loss, terms, rate)

    def _resume(self, checkpoint: Checkpoint) -> None:
        found = checkpoint.load()
        if found is None:
            return
        before = copy.deepcopy(self.held())
        try:
            self.take(found)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):  # of another form
            self.take(before)
            discard(checkpoint.path)


def refill(history: History, told: dict[str, Any]) -> None:
    """Put what a checkpoint tells into a history that others hold already."""
    for field in fields(history):
        setattr(history, field.name, told[field.name])
