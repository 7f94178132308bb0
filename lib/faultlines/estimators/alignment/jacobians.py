"""Exact Jacobians of the branch maps, and the gradients of whole layers from them, for tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators.alignment.branches import Alignment, branch_maps, cosine
from faultlines.estimators.forward import check_steady, in_any_mode, outputs
from faultlines.estimators.spectral import spectral_norm
from faultlines.models.recorder import record

AT_ONCE = 2**26  # bytes of columns of a Jacobian that are computed together


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
    (`torch.func.jvp`, `jacrev`), as many at a time as memory suggests, and no further into the model than the layer.
    The result has $2\ \mathrm{or}\ 3 \times n^2 \times$ `inputs` numbers a pair: with 65 tokens and 3,072 pixels,
    0.1 GB a map in float64.

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
        outputs(model, x[None])
    if not -len(tape.layers) <= layer < len(tape.layers):
        raise ValueError(f"layer={layer} must be one of {len(tape.layers)} recorded layers")
    there = branch_maps(tape.layers[layer])
    sizes = there.first[0].numel() * (2 if there.combined is None else 3)
    needed = layer % len(tape.layers) + 1
    at = x.detach().flatten()

    def maps(flat: Tensor) -> Tensor:
        """Return the maps stacked, `[branch, pair, query, key]`."""
        with record(needed) as inner:
            model(flat.reshape(1, *x.shape))
        found = branch_maps(inner.layers[-1])
        both = [found.first, found.second, *([] if found.combined is None else [found.combined])]
        return torch.cat(both)

    def column(direction: Tensor) -> Tensor:
        return torch.func.jvp(maps, (at,), (direction,))[1]

    with torch.no_grad():  # the transforms bring their own derivatives
        if len(at) <= sizes:
            chunk = max(1, AT_ONCE // (sizes * at.element_size()))
            inputs = torch.eye(len(at), dtype=at.dtype, device=at.device)
            whole = torch.func.vmap(column, chunk_size=min(chunk, len(at)))(inputs).movedim(0, -1)
        else:
            chunk = max(1, AT_ONCE // (len(at) * at.element_size()))
            whole = torch.func.jacrev(maps, chunk_size=chunk)(at)
    jacobians = whole.unbind(dim=0)
    combined = None if there.combined is None else jacobians[2]
    return BranchJacobians(jacobians[0], jacobians[1], combined, there.lam)


class LayerGradients(NamedTuple):
    r"""Norms of the Jacobians of a layer's maps in the input, root mean square over maps.

    The mean makes mechanisms with different numbers of maps comparable; it leaves ratios and angles within a layer
    as they are, so that the identities for one pair hold for the layer.

    Attributes:
        frobenius: $\lVert \nabla A \rVert_F$ of the maps that multiply the values, `[batch, layer]`.
        spectral: Their spectral norm, the local Lipschitz constant of the maps as the radius goes to zero.
        branches: Norms of $\nabla A_1$ and $\nabla A_2$, the cosine between them and $\lambda$; None for a layer
            without branches.
        triangle: $\lVert \nabla A_1 \rVert_2 + |\lambda| \lVert \nabla A_2 \rVert_2$ in spectral norms, or None.
    """

    frobenius: Float[Tensor, "batch layer"]
    spectral: Float[Tensor, "batch layer"]
    branches: Alignment | None
    triangle: Float[Tensor, "batch layer"] | None


@in_any_mode
def layer_gradients(model: nn.Module, x: Float[Tensor, "batch *shape"]) -> LayerGradients:
    """Differentiate the maps of every layer at every sample, in the dtype of the model.

    Args:
        model: See `branch_jacobians`; for tiny models only. Either all layers have branches or none has.
        x: Samples.

    Raises:
        ValueError: If the model records no attention layer, or a layer without branches has an odd number of heads.

    Example:
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)
        >>> found = layer_gradients(ViT(**sizes, attention="differential"), torch.rand(3, 1, 4, 4))
        >>> found.frobenius.shape, found.branches.cosine.shape
        (torch.Size([3, 2]), torch.Size([3, 2]))
    """
    check_steady(model)
    with torch.no_grad(), record() as tape:
        outputs(model, x[:1])
    if not tape.layers:
        raise ValueError("model records no attention layer")
    cells = [[branch_jacobians(model, one, layer=i) for i in range(len(tape.layers))] for one in x]
    whole = _grid(cells, lambda j: _maps(j).norm() / len(_maps(j)) ** 0.5)
    spectral = _grid(cells, lambda j: _spectral(_maps(j)))
    if cells[0][0].combined is None:
        return LayerGradients(whole, spectral, None, None)
    norm1, norm2 = (
        _grid(cells, lambda j, side=side: getattr(j, side).norm() / len(j.first) ** 0.5)  # type: ignore[misc]
        for side in ("first", "second")
    )
    inner = _grid(cells, lambda j: (j.first * j.second).sum() / len(j.first))
    lam = torch.stack([j.lam for j in cells[0] if j.lam is not None])
    triangle = _grid(cells, lambda j: _spectral(j.first) + cast(Tensor, j.lam).abs() * _spectral(j.second))
    return LayerGradients(
        whole, spectral, Alignment(cosine(inner, norm1, norm2), norm1, norm2, lam), triangle
    )


def _maps(jacobians: BranchJacobians) -> Float[Tensor, "map query key inputs"]:
    """Return the Jacobian of the maps that multiply the values: the combined ones, or all heads."""
    if jacobians.combined is not None:
        return jacobians.combined
    return torch.cat([jacobians.first, jacobians.second])


def _spectral(jacobian: Float[Tensor, "map query key inputs"]) -> Tensor:
    return spectral_norm(jacobian.flatten(0, 2)) / len(jacobian) ** 0.5


def _grid(
    cells: list[list[BranchJacobians]], value: Callable[[BranchJacobians], Tensor]
) -> Float[Tensor, "batch layer"]:
    return torch.stack([torch.stack([value(jacobians) for jacobians in row]) for row in cells]).detach()
