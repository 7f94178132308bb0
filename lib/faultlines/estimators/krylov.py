"""Steps that every Krylov method takes on a batch of vectors: orthogonalise, measure, normalise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonalise(w: Float[Tensor, "batch n"], basis: Float[Tensor, "batch k n"]) -> Tensor:
    """Remove the part in the span of `basis`; twice is enough (Giraud et al. 2005)."""
    for _ in range(2):
        w = w - torch.einsum("bk,bkn->bn", torch.einsum("bkn,bn->bk", basis, w), basis)
    return w


def length(w: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """Return Euclidean lengths whose squares neither over- nor underflow."""
    largest = w.abs().amax(dim=1) if w.shape[1] else w.new_zeros(len(w))
    largest = torch.where(largest > 0, largest, 1)
    return largest * (w / largest[:, None]).norm(dim=1)


def normalise(w: Float[Tensor, "batch n"], scale: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """Return unit vectors and lengths; rounding next to `scale` becomes zero, so that the span ends there."""
    size = length(w)
    size = torch.where(size > 16 * torch.finfo(w.dtype).eps * scale, size, 0)
    unit = w / torch.where(size > 0, size, 1)[:, None]
    return unit * (size > 0)[:, None], size
