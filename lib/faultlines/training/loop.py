"""The loop of every minibatch training: epochs of steps, what it reports, a bar, a checkpoint, callbacks."""

from __future__ import annotations

import copy
import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from tqdm.std import tqdm

from faultlines.training.batches import Stream
from faultlines.training.checkpoint import Checkpoint, discard
from faultlines.training.optimizer import Settings, learning_rate
from faultlines.training.seeding import global_state, own_draws, set_global_state


@dataclass
class History:
    """Means over each epoch, in order.

    Attributes:
        loss: The objective, averaged over samples as the weights changed.
        lr: The learning rate of the epoch's last step.
        terms: The objective's terms by name.
        validation_loss: Cross-entropy on the validation set, where one was given.
        validation_accuracy: Accuracy there, in [0, 1].
        training_loss: Cross-entropy of the whole training set at each look of the stop rule, where there is one.
        training_step: Steps taken before each of these looks.
        stopped_at: Steps taken when the stop rule was met; None where it was not met, or there is none.
        seconds: Wall time of all epochs, those before an interruption included.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    lr: list[float] = dataclasses.field(default_factory=list)
    terms: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    validation_loss: list[float] = dataclasses.field(default_factory=list)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)
    training_loss: list[float] = dataclasses.field(default_factory=list)
    training_step: list[int] = dataclasses.field(default_factory=list)
    stopped_at: int | None = None
    seconds: float = 0.0

    def latest(self) -> dict[str, float]:
        """Return the numbers of the last epoch that a bar shows."""
        shown = {"loss": self.loss[-1]}
        return shown | ({"accuracy": self.validation_accuracy[-1]} if self.validation_accuracy else {})

    def add(self, loss: float, lr: float, terms: dict[str, float]) -> None:
        """Append one epoch."""
        self.loss.append(loss)
        self.lr.append(lr)
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)


class EpochMean:
    """Sample-weighted means of the tensors of one epoch, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, loss: Tensor, terms: dict[str, Tensor], count: int) -> None:
        """Add one batch of `count` samples."""
        self._count += count
        for name, value in {**terms, "": loss}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() * count

    def read(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and the mean of every term."""
        means = {name: torch.as_tensor(total) / self._count for name, total in self._sums.items()}
        return means.pop(""), means


class EpochsBar:
    """A bar that shows itself in a terminal only, unless it is asked to; executed notebooks stay clean.

    Args:
        total: Epochs in all.
        done: Epochs behind us.
        progress: None for a terminal only, True for everywhere, False for nowhere.
    """

    def __init__(self, total: int, *, done: int = 0, progress: bool | None = None) -> None:
        kind = tqdm
        if progress:
            # on import it warns where notebook widgets are not installed
            from tqdm.auto import tqdm as kind  # type: ignore[no-redef]
        # tqdm's own disable=None means: where standard error is no terminal
        disable = None if progress is None else not progress
        self._bar = kind(
            total=total, initial=done, desc="training", unit="epoch", leave=False, disable=disable
        )

    def update(self, **numbers: float) -> None:
        """Advance by one epoch and show its numbers."""
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in numbers.items()}, refresh=False)
        self._bar.update()

    def __enter__(self) -> EpochsBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


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
