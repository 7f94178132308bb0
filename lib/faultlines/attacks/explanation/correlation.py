"""Attacks that turn the map as a whole: cosine, and rank correlation by a surrogate of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Cosine:
    r"""Lower the cosine between the map and the clean one; loss and score are the same number.

    Computed as $1 - \|u - v\|^2 / 2$ of the unit maps, which is 1 without rounding where nothing has changed. Two
    maps of zeros have cosine 1, one alone has 0. At the clean map the gradient is zero: the attack needs a random
    start.

    Example:
        >>> criterion, clean = Cosine(), torch.tensor([[3.0, 4.0]])
        >>> criterion.score(torch.tensor([[4.0, 3.0]]), criterion.reference(clean))
        tensor([0.9600])
    """

    name: ClassVar[str] = "cosine"

    def reference(self, clean: Tensor) -> Tensor:
        """Return the clean maps at unit length, `[batch, pixel]`."""
        return unit(clean.flatten(1))

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return minus the cosine."""
        return -self.score(maps, reference)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the cosine."""
        return agreement(unit(maps.flatten(1)), reference)


@dataclass(frozen=True)
class Spearman:
    r"""Lower Spearman's rank correlation with the clean map.

    The score is the rank correlation, ties at their mean rank; it has no gradient, so the loss that is ascended is
    minus the Pearson correlation of the map's values with the clean map's ranks. Two constant maps have score 1,
    one alone has 0.

    Example:
        >>> criterion, clean = Spearman(), torch.tensor([[1.0, 2.0, 3.0]])
        >>> criterion.score(torch.tensor([[4.0, 9.0, 1.0]]), criterion.reference(clean))
        tensor([-0.5000])
    """

    name: ClassVar[str] = "spearman"

    def reference(self, clean: Tensor) -> Tensor:
        """Return the clean ranks, centred and at unit length, `[batch, pixel]`."""
        return unit(centred(ranks(clean.flatten(1))))

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return minus the correlation of values with clean ranks."""
        return -agreement(unit(centred(maps.flatten(1))), reference)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the rank correlation."""
        return agreement(unit(centred(ranks(maps.flatten(1)))), reference)


def ranks(flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch pixel"]:
    """Return each value's rank in its row, from 0, ties at their mean rank.

    Example:
        >>> ranks(torch.tensor([[5.0, 1.0, 5.0]]))
        tensor([[1.5000, 0.0000, 1.5000]])
    """
    flat = flat.detach().contiguous()
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat)
    up_to = torch.searchsorted(ordered, flat, right=True)
    return (below + up_to - 1).to(flat.dtype) / 2


def centred(flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch pixel"]:
    """Return each row less its mean; a constant row becomes zeros, without rounding."""
    first = flat[:, :1].detach()  # a shift that changes no result and makes constant rows exact
    shifted = flat - first
    return shifted - shifted.mean(dim=1, keepdim=True)


def unit(flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch pixel"]:
    """Return each row at unit length; a row of zeros stays one."""
    # a saturated model's map may be 1e-30: its squares underflow, its ratios do not
    largest = flat.detach().abs().amax(dim=1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


def agreement(u: Float[Tensor, "batch pixel"], v: Float[Tensor, "batch pixel"]) -> Float[Tensor, " batch"]:
    """Return the cosine of rows that are of unit length or zero; of two zeros 1, of one 0."""
    cosine = 1 - (u - v).square().sum(dim=1) / 2
    lone = (u != 0).any(dim=1) != (v != 0).any(dim=1)
    return torch.where(lone, 0, cosine)
