"""Spectral norms of batches of dense matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def spectral_norm(m: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the largest singular value of each matrix, from the eigenvalues of its smaller Gram matrix.

    The largest singular value keeps full relative accuracy that way (the small ones would not), and a tall or
    wide matrix costs only its short side cubed. The eigenvalues are computed in float64, whatever the dtype of
    `m`, which is also that of the result.

    Example:
        >>> import torch
        >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]], dtype=torch.float64))
        tensor(4., dtype=torch.float64)
    """
    wide = m.double()
    gram = wide.mT @ wide if wide.shape[-2] >= wide.shape[-1] else wide @ wide.mT
    try:
        norm = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
    except torch.linalg.LinAlgError:
        # LAPACK's solver was seen to give up on maps with many equal rows; the slower one does not
        norm = torch.linalg.svdvals(wide)[..., 0]
    return norm.to(m.dtype)
