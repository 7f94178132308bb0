"""Batches of data that are already on the device, in a seeded order, and image augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Stream(ABC):
    """A stream of epochs that can be taken up again between two of them.

    Order and noise have a generator each, so that one can change without the other.

    Args:
        n: Samples.
        batch_size: Samples a batch; the last of an epoch holds what is left.
        order: Source of the order; on the CPU, so that it is the same on every device.
        noise: Source of what else is drawn.
    """

    def __init__(self, n: int, batch_size: int, order: torch.Generator, noise: torch.Generator) -> None:
        self.n, self.batch_size = n, batch_size
        self._order, self._noise = order, noise

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.n // self.batch_size)

    def epoch(self) -> Iterator[Any]:
        """Yield the batches of the next epoch."""
        for index in torch.randperm(self.n, generator=self._order).split(self.batch_size):
            yield self.draw(index)

    @abstractmethod
    def draw(self, index: Int[Tensor, " batch"]) -> Any:
        """Return the batch of these samples."""

    def state(self) -> dict[str, Tensor]:
        """Return the generators' states between two epochs."""
        return {"order": self._order.get_state(), "noise": self._noise.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from where `state()` was taken."""
        self._order.set_state(state["order"])
        self._noise.set_state(state["noise"])


class Batches(Stream):
    """A seeded stream of epochs over `(x, y)`; two streams of equal seed give equal batches.

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
        order = torch.Generator().manual_seed(seed)
        super().__init__(len(x), batch_size, order, torch.Generator(x.device).manual_seed(seed))
        self.x, self.y, self.augment = x, y, augment

    def draw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of these samples."""
        index = index.to(self.x.device)
        batch = self.x[index]
        return batch if self.augment is None else self.augment(batch, self._noise), self.y[index]


class LoaderBatches(Stream):
    """The epochs of a DataLoader of `(x, y)`, brought to a device.

    The order is the loader's own. Where it has no generator, it draws from torch's global one, which training seeds.

    Args:
        loader: Yields inputs and labels.
        device: Where batches are wanted.
        dtype: Of the inputs.
        seed: Seed of the augmentation.
        augment: Called as `augment(batch, generator)` on every batch.

    Raises:
        ValueError: If its data set has no length.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
        augment: Augment | None = None,
    ) -> None:
        if not isinstance(loader.dataset, Sized):
            raise ValueError(
                f"the data set {type(loader.dataset).__name__} has no length; training needs to know it"
            )
        noise = torch.Generator(device).manual_seed(seed)
        super().__init__(
            len(loader.dataset), loader.batch_size or 1, loader.generator or torch.Generator(), noise
        )
        self.loader, self.device, self.dtype, self.augment = loader, device, dtype, augment

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next epoch."""
        for x, y in self.loader:
            batch = x.to(self.device, self.dtype)
            yield (
                batch if self.augment is None else self.augment(batch, self._noise),
                y.to(self.device, torch.int64),
            )

    def draw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Return these samples as one batch."""
        collate = self.loader.collate_fn
        x, y = collate([self.loader.dataset[int(i)] for i in index])
        return x.to(self.device, self.dtype), y.to(self.device, torch.int64)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all samples once, in the order of the data set, without augmentation."""
        for index in torch.arange(self.n).split(256):
            yield self.draw(index)


@dataclass(frozen=True)
class CropFlip:
    """Pad with zeros, crop back at a random place, mirror half of the images: the usual CIFAR augmentation.

    Args:
        padding: Pixels on each side; the largest shift.
        flip: Whether to mirror left and right.

    Raises:
        ValueError: If `padding` is negative.

    Example:
        >>> x = torch.rand(6, 3, 8, 8)
        >>> CropFlip(padding=2)(x, torch.Generator().manual_seed(0)).shape
        torch.Size([6, 3, 8, 8])
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding={self.padding} must be at least 0")

    def __call__(
        self, x: Float[Tensor, "batch channel height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channel height width"]:
        """Return a new batch; every draw comes from `generator`, which lives on the device of `x`."""
        batch, _, height, width = x.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch,), generator=generator, device=x.device)

        down = draw(2 * self.padding + 1)
        mirrored = draw(2).bool() if self.flip else None
        right = draw(2 * self.padding + 1)
        # every crop is a view of the padded image, so that one is copied a row at a time and not a pixel at a time
        crops = (
            F.pad(x, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        )
        cropped = crops[torch.arange(batch, device=x.device), down, right]
        if mirrored is None:
            return cropped
        return torch.where(mirrored.view(-1, 1, 1, 1), cropped.flip(3), cropped)
