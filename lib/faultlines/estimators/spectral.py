"""Spectral norms of batches of dense matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def spectral_norm(m: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the largest singular value of each matrix, from the eigenvalues of its smaller Gram matrix.

    The largest singular value keeps full relative accuracy that way (the small ones would not), and a tall or
    wide matrix costs only its short side cubed. The eigenvalues are computed in float64, whatever the dtype of
    `m`, which is also that of the result, of a matrix scaled by a power of two, so that no square over- or
    underflows. A matrix that is not finite has the norm NaN.

    Raises:
        ValueError: If `m` is no floating matrix with at least one row and one column.

    Example:
        >>> import torch
        >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]], dtype=torch.float64))
        tensor(4., dtype=torch.float64)
    """
    if m.ndim < 2 or 0 in m.shape[-2:] or not m.is_floating_point():
        raise ValueError(
            f"m has shape {tuple(m.shape)} and dtype {m.dtype}; floating [..., rows, columns] is needed"
        )
    wide = m.double()
    largest = wide.detach().abs().amax(dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    usable = finite & (largest > 0)
    scale = torch.where(usable, largest, 1).log2().round().clamp(-1000, 1000).exp2()
    wide = torch.where(finite, wide, 0) / scale
    gram = wide.mT @ wide if wide.shape[-2] >= wide.shape[-1] else wide @ wide.mT
    try:
        norm = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
    except torch.linalg.LinAlgError:
        # LAPACK's solver was seen to give up on maps with many equal rows; the slower one does not
        norm = torch.linalg.svdvals(wide)[..., 0]
    norm = norm * scale[..., 0, 0]
    return torch.where(finite[..., 0, 0], norm, torch.nan).to(m.dtype)
