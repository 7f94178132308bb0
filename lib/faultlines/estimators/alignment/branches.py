"""The branches of differential attention, or pairs of heads as a control, and the angle between their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.alignment.sensitivity import combined_norm
from faultlines.models.differential import DifferentialAttention
from faultlines.models.recorder import LayerRecord


@dataclass(frozen=True)
class Alignment:
    r"""The angle between the gradients of two branches, and their lengths.

    Attributes:
        cosine: $\cos\theta = \langle \nabla A_1, \nabla A_2 \rangle / (\lVert \nabla A_1 \rVert \lVert \nabla A_2
            \rVert)$, `[batch, layer, pair]`, or `[batch, layer]` on the loss path; 0 where a gradient is zero.
        norm1: $\lVert \nabla A_1 \rVert$, in the shape of `cosine`.
        norm2: $\lVert \nabla A_2 \rVert$.
        lam: $\lambda$ of each layer, `[layer]`, or None where nothing is subtracted (the head-pair control).
    """

    cosine: Float[Tensor, "batch layer *pair"]
    norm1: Float[Tensor, "batch layer *pair"]
    norm2: Float[Tensor, "batch layer *pair"]
    lam: Float[Tensor, " layer"] | None = None

    @property
    def rho(self) -> Tensor:
        r"""$\rho = \lVert \nabla A_2 \rVert / \lVert \nabla A_1 \rVert$, in the shape of `cosine`."""
        return self.norm2 / self.norm1

    @property
    def lambda_rho(self) -> Tensor:
        r"""$\lambda\rho$, in the shape of `cosine`.

        Raises:
            ValueError: If nothing is subtracted.
        """
        if self.lam is None:
            raise ValueError(
                "lam is None: these are head pairs of standard attention, which subtracts nothing"
            )
        return self.lam.reshape(-1, *[1] * (self.cosine.ndim - 2)) * self.rho

    @property
    def opposed(self) -> Tensor:
        r"""Where $\cos\theta < 0$, in the shape of `cosine`; its mean is the frequency of opposition."""
        return self.cosine < 0

    def map_norm(self) -> Float[Tensor, "batch layer"]:
        r"""Return the root mean square, over the maps of a layer, of the norm of a map's gradient.

        The maps are $A_1 - \lambda A_2$ where something is subtracted, and the two heads of each pair otherwise, so
        that layers with different numbers of maps compare. The quotient of the two is the ratio of Theorem 2.

        Raises:
            ValueError: If there are no pairs: the loss path has no gradient of a whole map.
        """
        if self.cosine.ndim != 3:
            raise ValueError(f"cosine has shape {tuple(self.cosine.shape)}; [batch, layer, pair] is needed")
        if self.lam is None:
            return ((self.norm1.square() + self.norm2.square()) / 2).mean(dim=2).sqrt()
        combined = combined_norm(self.norm1, self.norm2, self.cosine, self.lam[:, None])
        return combined.square().mean(dim=2).sqrt()


def cosine(inner: Tensor, norm1: Tensor, norm2: Tensor) -> Tensor:
    """Return `inner / (norm1 norm2)`, 0 where a norm is zero.

    Example:
        >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.0000])
    """
    product = norm1 * norm2
    return torch.where(product > 0, inner / torch.where(product > 0, product, 1), 0)


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


@torch.no_grad()
def tie_branches(model: nn.Module, sign: int) -> nn.Module:
    r"""Give the second branch of every pair the queries of the first and, times `sign`, its keys; in place.

    With +1 both maps are equal, so that $\cos\theta = 1$ and $\rho = 1$. With -1 the scores of the second map are
    those of the first with the opposite sign; where there are **two tokens** its rows are then $1 - A_1$, and
    $\cos\theta = -1$ with $\rho = 1$. With more tokens it is near, not at, that end.

    Args:
        model: A network with `blocks`, differential attention in each.
        sign: 1 or -1.

    Returns:
        The network.

    Raises:
        ValueError: If `sign` is neither, or a block has no branches.

    Example:
        >>> from faultlines.estimators.alignment import layer_gradients
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=4, channels=1, classes=3, dim=8, depth=1, heads=4)
        >>> model = tie_branches(ViT(**sizes, attention="differential").double(), -1)
        >>> cosine = layer_gradients(model, torch.rand(1, 1, 4, 4).double()).branches.cosine
        >>> bool((cosine + 1).abs().max() < 1e-9)
        True
    """
    if sign not in (1, -1):
        raise ValueError(f"sign={sign!r} is not one of 1, -1")
    blocks: Any = model.blocks
    for block in blocks:
        attention = block.attention
        if not (isinstance(attention.mechanism, DifferentialAttention) and attention.mechanism.subtract):
            raise ValueError(f"model has a layer of {type(attention.mechanism).__name__} without branches")
        for value in (attention.qkv.weight, attention.qkv.bias):
            if value is None:
                continue
            heads = value.unflatten(0, (3, attention.heads // 2, 2, -1))  # [qkv, pair, branch, ...], a view
            heads[0, :, 1] = heads[0, :, 0]
            heads[1, :, 1] = sign * heads[1, :, 0]
    return model
