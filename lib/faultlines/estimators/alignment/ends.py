r"""Networks at the two ends of Theorem 1 of arXiv 2510.00517: branches that agree, or oppose each other, exactly."""

from __future__ import annotations

import torch
from torch import nn

from faultlines.models.differential import DifferentialAttention


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
        >>> from faultlines.estimators.alignment import alignment_exact
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=4, channels=1, classes=3, dim=8, depth=1, heads=4)
        >>> model = tie_branches(ViT(**sizes, attention="differential").double(), -1)
        >>> cosine = alignment_exact(model, torch.rand(1, 1, 4, 4).double()).cosine
        >>> bool((cosine + 1).abs().max() < 1e-9)
        True
    """
    if sign not in (1, -1):
        raise ValueError(f"sign={sign!r} is not one of 1, -1")
    for block in model.blocks:
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
