"""The alignment of branch gradients from exact Jacobians, what estimates are compared with."""

from __future__ import annotations

import torch

from faultlines.estimators.alignment.branches import Alignment, cosine
from faultlines.estimators.alignment.jacobians import branch_jacobians


def alignment_exact(model, x, layers=2):
    rows = [[branch_jacobians(model, sample, layer=i) for i in range(layers)] for sample in x]
    first, second = (
        torch.stack([torch.stack([jacobians[i].flatten(1) for jacobians in row]) for row in rows])
        for i in (0, 1)
    )
    inner, norm1, norm2 = (first * second).sum(-1), first.norm(dim=-1), second.norm(dim=-1)
    lams = [jacobians.lam for jacobians in rows[0]]
    lam = None if lams[0] is None else torch.stack(lams)
    return Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam)
