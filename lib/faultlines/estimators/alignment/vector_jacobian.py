"""Alignment of the branch gradients from products with their Jacobians: of random signs, or of the loss gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.alignment.branches import Alignment, branch_maps, cosine
from faultlines.estimators.forward import check_steady, in_any_mode, outputs
from faultlines.models.recorder import record


@in_any_mode
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
    check_steady(model)
    with record() as tape:
        outputs(model, x)
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
    known = [lam for lam in lams if lam is not None]
    lam = torch.stack(known).detach() if len(known) == len(lams) else None
    return Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam)


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


@in_any_mode
@torch.enable_grad()
def alignment_losspath(
    model: nn.Module,
    x: Float[Tensor, "batch *shape"],
    y: Int[Tensor, " batch"],
    *,
    loss: Callable[[Tensor, Tensor], Float[Tensor, " batch"]] = _cross_entropy,
) -> Alignment:
    r"""Return the alignment of $J_1^\top G$ and $J_2^\top G$ with $G = \partial L / \partial (A_1 - \lambda A_2)$.

    $G$ is that of the layer's combined maps, all pairs together, held fixed. What reaches the input through the
    second branch is $-\lambda J_2^\top G$; the factor $-\lambda$ is **left out**, as in $\cos\theta$ of Lemma 1
    (with it, every sign turns). So where the cosine is negative the two paths add up.

    Where a layer subtracts nothing, heads 2h and 2h + 1 are the control, as for `alignment_hutchinson`. $G$ is then
    $\partial L / \partial A_{2h} + \partial L / \partial A_{2h+1}$, what a change common to both maps does: one signal
    for both, so that branches and control differ in the maps alone.

    Args:
        model: A network whose recorded layers all have branches, or none; see `branch_maps`.
        x: Samples.
        y: What `loss` takes beside the model's output.
        loss: Maps output and `y` to a loss a sample; cross-entropy by default.

    Returns:
        Cosine and lengths, `[batch, layer]`, detached; `lam` is None for the control.

    Raises:
        ValueError: If no layer is recorded, or a layer without branches has an odd number of heads.

    Example:
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)
        >>> model = ViT(**sizes, attention="differential")
        >>> alignment_losspath(model, torch.rand(5, 1, 4, 4), torch.zeros(5).long()).opposed.shape
        torch.Size([5, 2])
    """
    check_steady(model)
    x = x.detach().requires_grad_()
    with record() as tape:
        total = loss(outputs(model, x), y).sum()
    if not tape.layers:
        raise ValueError("model records no attention layer")
    branches = [branch_maps(layer) for layer in tape.layers]
    signals = torch.autograd.grad(total, [layer.maps for layer in tape.layers], retain_graph=True)
    rows = []
    for branch, signal in zip(branches, signals, strict=True):
        if branch.combined is None:
            signal = signal[:, 0::2] + signal[:, 1::2]
        g1, g2 = (
            torch.autograd.grad(maps, x, signal, retain_graph=True)[0].flatten(1)
            for maps in (branch.first, branch.second)
        )
        rows.append(torch.stack([(g1 * g2).sum(1), g1.norm(dim=1), g2.norm(dim=1)]))
    inner, norm1, norm2 = torch.stack(rows, dim=2)
    lams = [branch.lam for branch in branches]
    known = [lam for lam in lams if lam is not None]
    lam = torch.stack(known).detach() if len(known) == len(lams) else None
    return Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam)
