"""Spectral norms of batches of dense matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def spectral_norm(m: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the largest singular value of each matrix, from the eigenvalues of its smaller Gram matrix.

    The largest singular value keeps full relative accuracy that way (the small ones would not), and a tall or
    wide matrix costs only its short side cubed.

    Example:
        >>> import torch
        >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]], dtype=torch.float64))
        tensor(4., dtype=torch.float64)
    """
    gram = m.mT @ m if m.shape[-2] >= m.shape[-1] else m @ m.mT
    return torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
