"""Images with a label, a confounder and, maybe, a foreground: as one batch, and as batches in a seeded order."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from faultlines.training.batches import Stream
from faultlines.training.objectives.group_objective import GroupBatch


class GroupData(Protocol):
    """Images with class, confounder and, where it is known, foreground; `data.GroupedImages` is one."""

    @property
    def x(self) -> Float[Tensor, "n channel height width"]:
        """Images."""
        ...

    @property
    def y(self) -> Int[Tensor, " n"]:
        """Labels."""
        ...

    @property
    def c(self) -> Int[Tensor, " n"]:
        """Confounders."""
        ...

    @property
    def mask(self) -> Bool[Tensor, "n height width"] | None:
        """Foreground."""
        ...


def as_batch(data: GroupData, device: torch.device) -> tuple[GroupBatch, int]:
    """Return a whole set as one batch on a device, and its number of groups.

    Confounders, groups and domains are numbered from 0 in the order of those that occur: a classifier of the
    confounder has no outputs for what it never sees.

    Args:
        data: Holds `x`, `y`, `c`, `mask` and, maybe, `environment`.
        device: Where to put it.

    Raises:
        ValueError: If a tensor's length or type does not fit.
    """
    n = len(data.x)
    if n == 0 or not (data.x.is_floating_point() or data.x.dtype == torch.uint8) or data.x.ndim != 4:
        raise ValueError(
            f"x has shape {tuple(data.x.shape)} and dtype {data.x.dtype}; it must be images, floating point or bytes"
        )
    for name in ("y", "c"):
        labels = getattr(data, name)
        if labels.shape != (n,) or labels.dtype != torch.int64 or int(labels.min()) < 0:
            raise ValueError(
                f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}; it must be [{n}], int64 and from 0"
            )
    mask = getattr(data, "mask", None)
    if mask is not None and mask.shape != (n, *data.x.shape[2:]):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it must be {(n, *data.x.shape[2:])}")
    c = data.c.unique(return_inverse=True)[1]
    pairs, group = torch.stack([data.y, c]).unique(dim=1, return_inverse=True)
    domain = getattr(data, "environment", None)
    domain = c if domain is None else domain.unique(return_inverse=True)[1]
    whole = GroupBatch(
        data.x, data.y, c, None if mask is None else mask.float(), group, domain, torch.arange(n)
    )
    return whole.map(lambda t: t.to(device)), pairs.shape[1]


class GroupBatches(Stream):
    """A seeded stream of epochs; two streams of equal seed give equal batches.

    Args:
        data: The training set, on the device where batches are wanted.
        batch_size: Samples a batch; the last of an epoch holds what is left.
        seed: Seed of order and flips.
        flip: Whether each image is mirrored with probability one half, and its mask with it.
    """

    def __init__(self, data: GroupBatch, *, batch_size: int, seed: int, flip: bool = True) -> None:
        order, flips = (torch.Generator().manual_seed(seed) for _ in range(2))  # the same on every device
        super().__init__(len(data.y), batch_size, order, flips)
        self.data, self.flip = data, flip

    def draw(self, index: Int[Tensor, " batch"]) -> GroupBatch:
        """Return the batch of these samples."""
        device = self.data.y.device
        index = index.to(device)
        batch = self.data.map(lambda t: t[index]).floating()
        if self.flip:
            mirrored = (torch.rand(len(index), generator=self._noise) < 0.5).to(device)
            for images in (batch.x, batch.mask):  # indexing has copied them
                if images is not None:
                    images[mirrored] = images[mirrored].flip(-1)
        return batch
