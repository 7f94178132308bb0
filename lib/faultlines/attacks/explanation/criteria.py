"""What an attack on explanations wants of the map: top pixels lost, its centre moved, or another map shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.attacks.checks import check_count


class Criterion(Protocol):
    """A plug of the attack. It sees maps only; samples never mix."""

    name: ClassVar[str]

    def reference(self, clean: Float[Tensor, batch * dims]) -> Tensor:
        """Return what is kept of the clean maps, a tensor whose first axis is the batch."""
        ...

    def loss(self, maps: Float[Tensor, batch * dims], reference: Tensor) -> Float[Tensor, " batch"]:
        """Return what the attack ascends; differentiable."""
        ...

    def score(self, maps: Float[Tensor, batch * dims], reference: Tensor) -> Float[Tensor, " batch"]:
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
        flat = clean.flatten(1).abs()
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
        return ((flat >= least) * reference).sum(dim=1) / self.k


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
        rows = torch.arange(height, device=maps.device, dtype=maps.dtype) - (height - 1) / 2
        columns = torch.arange(width, device=maps.device, dtype=maps.dtype) - (width - 1) / 2
        mass = shares(maps)
        centre = torch.stack([mass.sum(dim=2) @ rows, mass.sum(dim=1) @ columns], dim=1)
        return centre / max(((height - 1) ** 2 + (width - 1) ** 2) ** 0.5, 1.0)


@dataclass(frozen=True)
class TargetMap:
    r"""Make the map look like another (Dombrowski et al. 2019).

    The loss is minus the squared distance of the two maps, each with $\sum_i |S_i| = 1$; the score is that distance
    over the clean map's: 1 at the clean map, 0 where the target is shown.

    Attributes:
        target: Maps to show, one a sample, `[batch, *]`, or one for all, `[*]`.

    Raises:
        ValueError: If the target is no floating tensor or not finite; at the call, if it does not fit the maps.
    """

    target: Float[Tensor, batch * dims]
    name: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        if not isinstance(self.target, Tensor) or not self.target.is_floating_point():
            raise ValueError(
                f"target={type(self.target).__name__} must be a floating tensor, [batch, *] or [*]"
            )
        if not self.target.isfinite().all():
            raise ValueError("target holds values that are not finite")

    def reference(self, clean: Tensor) -> Tensor:
        """Return the target and, in a last column, the clean map's squared distance, `[batch, pixel + 1]`."""
        if self.target.shape not in (clean.shape, clean.shape[1:]):
            raise ValueError(
                f"target has shape {tuple(self.target.shape)}; it must be that of the maps, {tuple(clean.shape)}, "
                f"or of one of them"
            )
        target = shares(self.target.to(clean).expand_as(clean)).flatten(1)
        distance = (shares(clean).flatten(1) - target).square().sum(dim=1, keepdim=True)
        return torch.cat([target, distance], dim=1)

    def loss(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return minus the squared distance to the target."""
        return -(shares(maps).flatten(1) - reference[:, :-1]).square().sum(dim=1)

    def score(self, maps: Tensor, reference: Tensor) -> Tensor:
        """Return the squared distance over the clean one; where that is 0, 1 and the distance."""
        clean = reference[:, -1]
        distance = -self.loss(maps, reference)
        return torch.where(clean > 0, distance / torch.where(clean > 0, clean, 1), 1 + distance)


def shares(maps: Float[Tensor, batch * dims]) -> Float[Tensor, batch * dims]:
    """Return the absolute map at sum 1; a map of zeros stays one."""
    size = maps.abs()
    total = size.flatten(1).sum(dim=1).reshape(-1, *[1] * (maps.ndim - 1))
    return size / torch.where(total > 0, total, 1)
