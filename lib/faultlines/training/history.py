"""What a training run reports about itself, and the bar over its epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm.std import tqdm


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

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    training_loss: list[float] = field(default_factory=list)
    training_step: list[int] = field(default_factory=list)
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
