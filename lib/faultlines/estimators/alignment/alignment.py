"""What an estimate of branch alignment consists of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


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


def cosine(inner: Tensor, norm1: Tensor, norm2: Tensor) -> Tensor:
    """Return `inner / (norm1 norm2)`, 0 where a norm is zero.

    Example:
        >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
        tensor([0.5000, 0.0000])
    """
    product = norm1 * norm2
    return torch.where(product > 0, inner / torch.where(product > 0, product, 1), 0)
