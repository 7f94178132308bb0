"""The alignment of branch gradients without a Jacobian, from random projections of the maps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.alignment.alignment import Alignment, cosine
from faultlines.estimators.alignment.branches import branch_maps
from faultlines.models.recorder import record


@torch.enable_grad()
def alignment_hutchinson(
    model: nn.Module,
    x: Float[Tensor, "batch *shape"],
    *,
    probes: int = 16,
    generator: torch.Generator | None = None,
) -> Alignment:
    r"""Estimate the Frobenius alignment of the branch gradients of every sample, layer and pair.

    With entries $R_{ij} = \pm 1$ and $g_i = J_i^\top R$, $\mathbb{E} \langle g_1, g_2 \rangle = \langle J_1, J_2
    \rangle_F$ and $\mathbb{E} \lVert g_i \rVert^2 = \lVert J_i \rVert_F^2$ (Hutchinson 1990). Both branches see the
    same $R$. The mean over probes of each of the three is unbiased; their quotient is not, by O(1/K).

    Costs `layers x pairs x probes x 2` backward passes, each only as deep as its layer. A map's sum has no
    gradient (rows sum to one), so scalars of it tell nothing; signed projections do.

    Args:
        model: See `branch_jacobians`.
        x: Samples; in evaluation mode each depends on itself only.
        probes: Number K of random projections, at least 1.
        generator: Source of the probes; seeded with 0 by default.

    Returns:
        Estimates in the dtype of `x`, detached.

    Raises:
        ValueError: If `probes` is below 1, the model records no attention layer, or a layer has an odd number
            of heads.

    Example:
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)
        >>> alignment_hutchinson(ViT(**sizes, attention="differential"), torch.rand(3, 1, 4, 4)).cosine.shape
        torch.Size([3, 2, 2])
    """
    if probes < 1:
        raise ValueError(f"probes={probes} must be at least 1")
    generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
    x = x.detach().requires_grad_()
    with record() as tape:
        model(x)
    if not tape.layers:
        raise ValueError("model records no attention layer")
    layers, lams = [], []
    for layer in tape.layers:
        first, second, _, lam = branch_maps(layer)
        pairs = first.shape[1]
        moments = x.new_zeros(3, len(x), pairs)
        for _ in range(probes):
            probe = torch.randint(2, first.shape, generator=generator, device=x.device).to(first) * 2 - 1
            for pair in range(pairs):
                g1, g2 = (
                    torch.autograd.grad(maps[:, pair], x, probe[:, pair], retain_graph=True)[0].flatten(1)
                    for maps in (first, second)
                )
                moments[:, :, pair] += torch.stack([(g1 * g2).sum(1), g1.square().sum(1), g2.square().sum(1)])
        layers.append(moments / probes)
        lams.append(lam)
    inner, square1, square2 = torch.stack(layers, dim=2)  # [batch, layer, pair] each
    norm1, norm2 = square1.sqrt(), square2.sqrt()
    lam = None if any(lam is None for lam in lams) else torch.stack(lams).detach()
    return Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam)
