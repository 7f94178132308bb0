"""Exact Jacobians of the branch maps, for tiny models."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.alignment.alignment import Alignment, cosine
from faultlines.estimators.alignment.branches import branch_maps
from faultlines.models.recorder import record


class BranchJacobians(NamedTuple):
    r"""Jacobians with respect to one input of the maps of one layer.

    Attributes:
        first: $\partial A_1 / \partial x$, `[pair, query, key, inputs]`, the input flattened.
        second: $\partial A_2 / \partial x$.
        combined: $\partial (A_1 - \lambda A_2) / \partial x$, differentiated as a whole; None for head pairs.
        lam: $\lambda$; None for head pairs.
    """

    first: Float[Tensor, "pair query key inputs"]
    second: Float[Tensor, "pair query key inputs"]
    combined: Float[Tensor, "pair query key inputs"] | None
    lam: Float[Tensor, ""] | None


def branch_jacobians(model: nn.Module, x: Float[Tensor, " *shape"], *, layer: int = 0) -> BranchJacobians:
    r"""Differentiate the branch maps of one layer with respect to one sample, in the dtype of the model.

    Columns by forward mode where there are fewer inputs than map entries, else rows by reverse mode
    (`torch.func.jacfwd`, `jacrev`). The result has $2\ \mathrm{or}\ 3 \times n^2 \times$ `inputs` numbers a pair:
    for a few hundred map entries and a few thousand pixels at most.

    Args:
        model: Whatever records attention layers when called on a batch; one without branches is read as
            head pairs, see `branch_maps`.
        x: One sample, without the batch axis.
        layer: Index of the layer, in the order of computation; negative counts from the end.

    Raises:
        ValueError: If there is no such layer, or an odd number of heads.

    Example:
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=1, heads=4)
        >>> branch_jacobians(ViT(**sizes, attention="differential"), torch.rand(1, 4, 4)).first.shape
        torch.Size([2, 5, 5, 16])
    """
    with torch.no_grad(), record() as tape:
        model(x[None])
    if not -len(tape.layers) <= layer < len(tape.layers):
        raise ValueError(f"layer={layer} must be one of {len(tape.layers)} recorded layers")
    there = branch_maps(tape.layers[layer])
    sizes = there.first[0].numel() * (2 if there.combined is None else 3)

    def maps(flat: Tensor) -> Tensor:
        """Return the maps stacked, `[branch, pair, query, key]`."""
        with record() as inner:
            model(flat.reshape(1, *x.shape))
        found = branch_maps(inner.layers[layer])
        both = [found.first, found.second, *([] if found.combined is None else [found.combined])]
        return torch.cat(both)

    transform = torch.func.jacfwd if x.numel() <= sizes else torch.func.jacrev
    with torch.no_grad():  # the transforms bring their own derivatives
        jacobians = transform(maps)(x.detach().flatten()).unbind(dim=0)
    combined = None if there.combined is None else jacobians[2]
    return BranchJacobians(jacobians[0], jacobians[1], combined, there.lam)


def alignment_exact(model: nn.Module, x: Float[Tensor, "batch *shape"]) -> Alignment:
    """Return the Frobenius alignment of every sample, layer and pair from exact Jacobians.

    Args:
        model: See `branch_jacobians`.
        x: Samples.

    Raises:
        ValueError: If the model records no attention layer, or a layer has an odd number of heads.
    """
    with torch.no_grad(), record() as tape:
        model(x[:1])
    if not tape.layers:
        raise ValueError("model records no attention layer")
    rows, lams = [], []
    for sample in x:
        row = []
        for layer in range(len(tape.layers)):
            jacobians = branch_jacobians(model, sample, layer=layer)
            first, second = jacobians.first.flatten(1), jacobians.second.flatten(1)
            row.append(torch.stack([(first * second).sum(1), first.norm(dim=1), second.norm(dim=1)]))
            lams.append(jacobians.lam)
        rows.append(torch.stack(row, dim=1))  # [3, layer, pair]
    inner, norm1, norm2 = torch.stack(rows, dim=1)
    lam = None if any(lam is None for lam in lams) else torch.stack(lams[: len(tape.layers)])
    return Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam)


def entrywise_opposition(
    jacobians: BranchJacobians, *, rows: Literal["all", "first"] = "all"
) -> Float[Tensor, " pair"]:
    r"""Return the share of map entries $(i, j)$ with $\cos(\nabla A_{1,ij}, \nabla A_{2,ij}) < 0$.

    Entries of which one gradient is zero do not count on either side.

    Args:
        jacobians: Of `branch_jacobians`.
        rows: `"all"` queries, or the `"first"` only (the class token).

    Returns:
        One share a pair, in [0, 1]; NaN where no entry counts.

    Raises:
        ValueError: If `rows` is neither.
    """
    if rows not in ("all", "first"):
        raise ValueError(f"rows={rows!r} is not one of 'all', 'first'")
    first, second = jacobians.first, jacobians.second
    if rows == "first":
        first, second = first[:, :1], second[:, :1]
    inner = (first * second).sum(-1).flatten(1)
    counted = ((first != 0).any(-1) & (second != 0).any(-1)).flatten(1)
    return ((inner < 0) & counted).sum(1) / counted.sum(1)
