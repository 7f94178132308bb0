"""The bar over epochs."""

from __future__ import annotations

from tqdm.std import tqdm

from faultlines.training.history import History


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
            from tqdm.auto import tqdm as kind  # on import it warns where notebook widgets are not installed
        # tqdm's own disable=None means: where standard error is no terminal
        disable = None if progress is None else not progress
        self._bar = kind(
            total=total, initial=done, desc="training", unit="epoch", leave=False, disable=disable
        )

    def update(self, history: History) -> None:
        """Advance by one epoch and show its numbers."""
        shown = {"loss": f"{history.loss[-1]:.3f}"}
        if history.validation_accuracy:
            shown["accuracy"] = f"{history.validation_accuracy[-1]:.3f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def __enter__(self) -> EpochsBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
