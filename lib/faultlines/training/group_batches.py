"""Batches of group data in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.training.objectives.group_objective import GroupBatch


def as_floats(x: Tensor) -> Float[Tensor, "..."]:
    """Return images to compute with, of a set that may be held in half precision or in bytes for its size."""
    if x.dtype == torch.float16:
        return x.float()
    return x if x.is_floating_point() else x.float() / 255


def as_batch(data: object, device: torch.device) -> tuple[GroupBatch, int]:
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
    return GroupBatch(*(None if t is None else t.to(device) for t in whole)), pairs.shape[1]


class GroupBatches:
    """A seeded stream of epochs; two streams of equal seed give equal batches.

    Args:
        data: The training set, on the device where batches are wanted.
        batch_size: Samples a batch; the last of an epoch holds what is left.
        seed: Seed of order and flips.
        flip: Whether each image is mirrored with probability one half, and its mask with it.
    """

    def __init__(self, data: GroupBatch, *, batch_size: int, seed: int, flip: bool = True) -> None:
        self.data, self.batch_size, self.flip = data, batch_size, flip
        self._order = torch.Generator().manual_seed(seed)
        self._flips = torch.Generator().manual_seed(seed)  # both on the CPU: the same on every device

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.data.y) // self.batch_size)

    def epoch(self) -> Iterator[GroupBatch]:
        """Yield the batches of the next epoch."""
        device = self.data.y.device
        for index in torch.randperm(len(self.data.y), generator=self._order).split(self.batch_size):
            index = index.to(device)
            batch = GroupBatch(*(None if t is None else t[index] for t in self.data))
            batch = batch._replace(x=as_floats(batch.x))
            if self.flip:
                mirrored = (torch.rand(len(index), generator=self._flips) < 0.5).to(device)
                for images in (batch.x, batch.mask):  # indexing has copied them
                    if images is not None:
                        images[mirrored] = images[mirrored].flip(-1)
            yield batch

    def state(self) -> dict[str, Tensor]:
        """Return the generators' states between two epochs."""
        return {"order": self._order.get_state(), "flips": self._flips.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from where `state()` was taken."""
        self._order.set_state(state["order"])
        self._flips.set_state(state["flips"])
