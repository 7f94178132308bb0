"""Images with a label, a confounder and, maybe, a foreground: as one batch, and as batches in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faultlines.data import image_files
from faultlines.estimators.attribution.gradients import INTEGERS
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

    More than a gigabyte of pixels stays where it is: `GroupBatches` brings what it draws to the device.

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
        if labels.shape != (n,) or labels.dtype not in INTEGERS or int(labels.min()) < 0:
            raise ValueError(
                f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}; it must be [{n}], integers from 0"
            )
    mask = getattr(data, "mask", None)
    if mask is not None and mask.shape != (n, *data.x.shape[2:]):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it must be {(n, *data.x.shape[2:])}")
    y, c = data.y.long(), data.c.unique(return_inverse=True)[1]
    group, groups = number_groups(y, c)
    domain = getattr(data, "environment", None)
    domain = c if domain is None else domain.unique(return_inverse=True)[1]
    whole = GroupBatch(data.x, y, c, None if mask is None else mask.float(), group, domain, torch.arange(n))
    return whole.map(lambda t: t if t.nbytes > image_files.IN_MEMORY else t.to(device)), groups


def number_groups(y: Int[Tensor, " n"], c: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], int]:
    """Return the number of each sample's pair of label and confounder, from 0, and how many pairs there are.

    Example:
        >>> number_groups(torch.tensor([0, 1, 0]), torch.tensor([2, 2, 2]))
        (tensor([0, 1, 0]), 2)
    """
    pairs, group = torch.stack([y, c]).unique(dim=1, return_inverse=True)
    return group, pairs.shape[1]


class GroupBatches(Stream):
    """A seeded stream of epochs; two streams of equal seed give equal batches.

    Args:
        data: The training set, its labels on the device where batches are wanted.
        batch_size: Samples a batch; the last of an epoch holds what is left.
        seed: Seed of order and flips.
        flip: Whether each image is mirrored with probability one half, and its mask with it.

    Attributes:
        dtype: Precision of the images of a batch; float32 until it is set to the model's.
    """

    def __init__(self, data: GroupBatch, *, batch_size: int, seed: int, flip: bool = True) -> None:
        order, flips = (torch.Generator().manual_seed(seed) for _ in range(2))  # the same on every device
        super().__init__(len(data.y), batch_size, order, flips)
        self.data, self.flip = data, flip
        self.dtype = torch.float32

    def draw(self, index: Int[Tensor, " batch"]) -> GroupBatch:
        """Return the batch of these samples."""
        device = self.data.y.device
        drawn = self.data.map(lambda t: t[index.to(t.device)].to(device))  # as bytes, where they are bytes
        return self.mirrored(drawn.floating(self.dtype), index.to(device))

    def one(self) -> Tensor:
        """Return one image."""
        return self.data.x[:1]

    def mirrored(self, batch: GroupBatch, index: Int[Tensor, " batch"]) -> GroupBatch:
        """Mirror half of the images of a batch, which are nobody else's, where that is asked for."""
        device = self.data.y.device
        if self.flip:
            mirrored = (torch.rand(len(index), generator=self._noise) < 0.5).to(device)
            for images in (batch.x, batch.mask):  # indexing has copied them
                if images is not None:
                    images[mirrored] = images[mirrored].flip(-1)
        return batch


class GroupLoaderBatches(GroupBatches):
    """The epochs of a DataLoader of images with label and confounder, brought to a device as they are read.

    Order and batch size are the loader's own. All labels are read once at the start; images are not kept.

    Args:
        loader: Yields `(x, y, c)` or `(x, y, c, mask)`.
        device: Where batches are wanted.
        seed: Seed of the flips.
        flip: Whether each image is mirrored with probability one half, and its mask with it.

    Attributes:
        groups: Number of groups in the data set.

    Raises:
        ValueError: If the data set has no length, or yields something else.
    """

    def __init__(
        self, loader: DataLoader[Any], *, device: torch.device, seed: int, flip: bool = True
    ) -> None:
        if not isinstance(loader.dataset, Sized) or not len(loader.dataset):
            raise ValueError(
                f"the data set {type(loader.dataset).__name__} has no length, or one of 0; training needs samples"
            )
        self.loader, self.device = loader, device
        labels, masked, empty = [], False, torch.empty(0)
        for _, x, y, c, mask in self._read(batch_size=256):
            labels.append(torch.stack([y.long(), c.long()]))
            empty, masked = x[:0], mask is not None
        y, c = torch.cat(labels, dim=1)
        c = c.unique(return_inverse=True)[1]
        group, self.groups = number_groups(y, c)
        no_mask = torch.zeros(0, *empty.shape[2:]) if masked else None
        data = GroupBatch(empty, y, c, no_mask, group, c, torch.arange(len(y)))
        batch_size = loader.batch_size or min(len(y), 256)
        super().__init__(data.map(lambda t: t.to(device)), batch_size=batch_size, seed=seed, flip=flip)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loader)

    def one(self) -> Tensor:
        """Return one image, and draw nothing for it."""
        return _Collate(self.loader.collate_fn)([(0, self.loader.dataset[0])])[1]

    def epoch(self) -> Iterator[GroupBatch]:
        """Yield the batches of the next epoch."""
        order = self.loader.batch_sampler
        given = {"sampler": self.loader.sampler} if order is None else {"batch_sampler": order}
        for index, *sample in self._read(**given):
            yield self._batch(index, *sample)

    def draw(self, index: Int[Tensor, " batch"]) -> GroupBatch:
        """Return the batch of these samples."""
        numbered = _Numbered(self.loader.dataset)
        _, *sample = _Collate(self.loader.collate_fn)([numbered[int(i)] for i in index])
        return self._batch(index, *sample)

    def _batch(self, index: Tensor, x: Tensor, y: Tensor, c: Tensor, mask: Tensor | None) -> GroupBatch:
        del y, c  # numbered already
        index = index.to(self.device)
        d, x = self.data, x.to(self.device, copy=True)
        mask = None if mask is None else mask.to(self.device, torch.float32, copy=True)
        batch = GroupBatch(x, d.y[index], d.c[index], mask, d.group[index], d.domain[index], index)
        return self.mirrored(batch.floating(self.dtype), index)

    def _read(self, **order: Any) -> Iterator[Any]:
        yield from DataLoader(
            _Numbered(self.loader.dataset),
            collate_fn=_Collate(self.loader.collate_fn),
            num_workers=self.loader.num_workers,
            pin_memory=self.loader.pin_memory,
            generator=self.loader.generator,
            worker_init_fn=self.loader.worker_init_fn,
            **order,
        )


class _Numbered(Dataset[Any]):
    """Samples with their places."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(cast(Sized, self.data))

    def __getitem__(self, place: int) -> tuple[int, Any]:
        return place, self.data[place]


class _Collate:
    """Puts samples together as their own loader does, with their places."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, pairs: list[tuple[int, Any]]) -> tuple[Any, ...]:
        sample, n = self.collate([sample for _, sample in pairs]), len(pairs)
        parts: tuple[Any, ...] = tuple(sample) if isinstance(sample, tuple | list) else ()
        fits = len(parts) in (3, 4) and all(isinstance(part, Tensor) and len(part) == n for part in parts)
        whole = fits and all(p.shape == (n,) and not p.is_floating_point() for p in parts[1:3])
        if not whole or parts[0].ndim != 4:
            found = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in parts]
            raise ValueError(
                "the DataLoader must yield (x, y, c) or (x, y, c, mask): images, integer labels, integer confounders; "
                f"it yields {found or type(sample).__name__}"
            )
        x, y, c, *mask = parts
        return torch.tensor([place for place, _ in pairs]), x, y, c, mask[0] if mask else None
