"""The two maps that are compared: the branches of differential attention, or a pair of heads as a control."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from faultlines.models.recorder import LayerRecord


class Branches(NamedTuple):
    r"""The branch maps of one layer.

    Attributes:
        first: $A_1$, `[batch, pair, query, key]`.
        second: $A_2$.
        combined: $A_1 - \lambda A_2$, or None where nothing is subtracted.
        lam: $\lambda$, a scalar, or None.
    """

    first: Float[Tensor, "batch pair query key"]
    second: Float[Tensor, "batch pair query key"]
    combined: Float[Tensor, "batch pair query key"] | None
    lam: Float[Tensor, ""] | None


def branch_maps(layer: LayerRecord) -> Branches:
    """Return the branches that a layer recorded; where it has none, heads 2h and 2h + 1 as pseudo-branches.

    The second is the control: standard attention has no branches, yet two of its heads have gradients with some
    angle between them, too. Differential attention pairs the same heads.

    Raises:
        ValueError: If there are no branches and the number of heads is odd.
    """
    if "branch1" in layer.terms:
        return Branches(layer.terms["branch1"], layer.terms["branch2"], layer.maps, layer.terms["lambda"])
    if layer.maps.shape[1] % 2:
        raise ValueError(f"the layer has {layer.maps.shape[1]} heads; pairs need an even number")
    return Branches(layer.maps[:, 0::2], layer.maps[:, 1::2], None, None)
