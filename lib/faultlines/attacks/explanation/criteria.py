"""What an attack on explanations wants of the map: top pixels lost, its centre moved, its ranks or direction turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.attacks.attack import check_count
from faultlines.models.attention import at_least_float


class Criterion(Protocol):
    """A plug of the attack. It sees maps only; samples never mix."""

    name: ClassVar[str]

    def reference(self, clean: Float[Tensor, "batch ..."]) -> Tensor:
        """Return what is kept of the clean maps, a tensor whose first axis is the batch."""
        ...

    def loss(self, maps: Float[Tensor, "batch ..."], reference: Tensor) -> Float[Tensor, " batch"]:
        """Return what the attack ascends; differentiable."""
        ...

    def score(self, maps: Float[Tensor, "batch ..."], reference: Tensor) -> Float[Tensor, " batch"]:
        """Return the likeness to the clean map: exactly 1 at it, and lower the more the attack has got."""
        ...


@dataclass(frozen=True)
class TopK:
    r"""Take attribution away from the $k$ largest pixels of the clean map (Ghorbani et al. 2019, top-k attack).

    The loss is $-\sum_{i \in \mathrm{top}_k(S_0)} S_i$ of the map with $\sum_i |S_i| = 1$; the score is the share
    of the clean top $k$ that is still among the top $k$. A pixel level with the $k$-th counts as among them, so
    that ties are never taken for a change.

    Attributes:
        k: Number of pixels.

    Raises:
        ValueError: If `k` is no positive integer; at the call, if the map has fewer pixels.

    Example:
        >>> criterion, clean = TopK(2), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        >>> criterion.score(torch.tensor([[[4.0, 1.0], [2.0, 1.0]]]), criterion.reference(clean))
        tensor([0.5000])
    """

    k: int
    name: ClassVar[str] = "top-k"

    def __post_init__(self) -> None:
        check_count(self.k, "k")

    def reference(self, clean: Tensor) -> Tensor:
        """Return which pixels are the clean map's top k, as 1 and 0 `[batch, pixel]`."""
        flat = at_least_float(clean).flatten(1).abs()
        if self.k > flat.shape[1]:
            raise ValueError(f"k={self.k} is more than the {flat.shape[1]} pixels of the map")
        return torch.zeros_like(flat).scatter_(1, flat.topk(self.k, dim=1).indices, 1)

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return minus the share of the attribution on those pixels."""
        return -(shares(maps).flatten(1) * reference).sum(dim=1)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the share of them that are still top k."""
        flat = maps.flatten(1).abs()
        least = flat.topk(self.k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        return or_nan(((flat >= least) * reference).sum(dim=1) / self.k, flat)


@dataclass(frozen=True)
class MassCentre:
    r"""Move the map's centre of mass (Ghorbani et al. 2019, mass-centre attack).

    The loss is the squared distance of $C(S) = \sum_i |S_i| p_i / \sum_i |S_i|$, $p_i$ the pixel's row and column,
    from the clean one, in units of the map's diagonal; the score is 1 less the distance. A map of zeros has its centre
    in the middle. At the clean map the gradient is zero: the attack needs a random start.

    Example:
        >>> criterion, clean = MassCentre(), torch.eye(4)[None, :1, :].expand(1, 4, 4)
        >>> criterion.score(clean.flip(2), criterion.reference(clean))
        tensor([0.2929])
    """

    name: ClassVar[str] = "mass-centre"

    def reference(self, clean: Tensor) -> Tensor:
        """Return the clean centres `[batch, 2]`."""
        return self.centre(clean)

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the squared shift."""
        return (self.centre(maps) - reference).square().sum(dim=1)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return 1 less the shift."""
        return 1 - torch.linalg.vector_norm(self.centre(maps) - reference, dim=1)

    def centre(self, maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch 2"]:
        """Return the centre of mass in units of the diagonal, from the middle of the map.

        Raises:
            ValueError: If the maps are not `[batch, height, width]`.
        """
        if maps.ndim != 3:
            raise ValueError(f"maps have shape {tuple(maps.shape)}; a centre takes [batch, height, width]")
        height, width = maps.shape[1:]
        maps = at_least_float(maps)
        rows = torch.arange(height, device=maps.device, dtype=maps.dtype) - (height - 1) / 2
        columns = torch.arange(width, device=maps.device, dtype=maps.dtype) - (width - 1) / 2
        mass = shares(maps)
        centre = torch.stack([mass.sum(dim=2) @ rows, mass.sum(dim=1) @ columns], dim=1)
        return centre / max(((height - 1) ** 2 + (width - 1) ** 2) ** 0.5, 1.0)


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
        return unit(at_least_float(clean).flatten(1))

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return minus the cosine."""
        return -self.score(maps, reference)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the cosine."""
        return agreement(unit(at_least_float(maps).flatten(1)), reference)


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
        return -agreement(unit(centred(at_least_float(maps).flatten(1))), reference)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the rank correlation."""
        flat = maps.flatten(1)
        return or_nan(agreement(unit(centred(ranks(flat))), reference), flat)


def or_nan(score: Float[Tensor, " batch"], flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, " batch"]:
    """Return the score, and NaN where the map holds one, which no order of its pixels shows."""
    return torch.where(flat.isnan().any(dim=1), torch.nan, score)


def shares(maps: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Return the absolute map at sum 1; a map of zeros stays one."""
    size = at_least_float(maps).abs()
    total = size.flatten(1).sum(dim=1).reshape(-1, *[1] * (maps.ndim - 1))
    return size / torch.where(total > 0, total, 1)


def ranks(flat: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch pixel"]:
    """Return each value's rank in its row, from 0, ties at their mean rank.

    Example:
        >>> ranks(torch.tensor([[5.0, 1.0, 5.0]]))
        tensor([[1.5000, 0.0000, 1.5000]])
    """
    flat = at_least_float(flat.detach()).contiguous()  # in half precision ranks above 2,048 would not differ
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
