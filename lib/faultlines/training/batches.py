"""Batches of tensors that are already on the device, in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Batches:
    """A seeded stream of epochs over `(x, y)`; two streams of equal seed give equal batches.

    Order and augmentation have a generator each, so that one can change without the other.

    Args:
        x: Inputs, on the device where batches are wanted.
        y: Labels.
        batch_size: Samples a batch; the last of an epoch holds what is left.
        seed: Seed of both generators.
        augment: Called as `augment(batch, generator)` on every batch.

    Example:
        >>> x, y = torch.arange(5.0), torch.arange(5)
        >>> [len(batch) for batch, _ in Batches(x, y, batch_size=2, seed=0).epoch()]
        [2, 2, 1]
    """

    def __init__(
        self,
        x: Float[Tensor, "n ..."],
        y: Int[Tensor, " n"],
        *,
        batch_size: int,
        seed: int,
        augment: Augment | None = None,
    ) -> None:
        self.x, self.y, self.batch_size, self.augment = x, y, batch_size, augment
        self._order = torch.Generator().manual_seed(seed)  # on the CPU: the order is the same on every device
        self._noise = torch.Generator(x.device).manual_seed(seed)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.x) // self.batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next epoch."""
        order = torch.randperm(len(self.x), generator=self._order).to(self.x.device)
        for index in order.split(self.batch_size):
            batch = self.x[index]
            yield batch if self.augment is None else self.augment(batch, self._noise), self.y[index]

    def state(self) -> dict[str, Tensor]:
        """Return the generators' states between two epochs."""
        return {"order": self._order.get_state(), "noise": self._noise.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from where `state()` was taken."""
        self._order.set_state(state["order"])
        self._noise.set_state(state["noise"])
