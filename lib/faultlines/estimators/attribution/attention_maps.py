r"""Attributions to patches from a transformer's attention maps: raw attention, rollout, gradient-weighted rollout."""

from __future__ import annotations

import math
from contextlib import nullcontext
from numbers import Integral
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.estimators.attribution.gradients import (
    Images,
    Model,
    Target,
    check_images,
    check_target,
    refuse_fused,
    target_logit,
)
from faultlines.estimators.forward import check_steady, derivatives, outputs, warn_of_nan
from faultlines.models.inference import frozen
from faultlines.models.recorder import record, recording_torch_layers

Query = Literal["cls", "mean"]
PatchMap = Float[Tensor, "batch row column"]


def raw_attention(
    model: Model,
    x: Images,
    target: Target | None = None,
    *,
    layer: int = -1,
    query: Query | None = None,
    grid: tuple[int, int] | None = None,
    create_graph: bool = False,
) -> PatchMap:
    """Return one layer's attention to the patches, averaged over heads.

    Of differential attention the map is the difference of its branches, and entries may be negative.

    Args:
        model: A model whose attention layers record (`faultlines.models.Attention`).
        x: Images.
        target: Checked if given, and without influence: attention is the same for every class.
        layer: Which layer, counted from the input; the last by default.
        query: `"cls"` reads the row of the class token, which is the first, and leaves its column out; `"mean"`
            averages the rows of all tokens, none of which is a class token. By default `model.pool`, and
            `"cls"` where a model has none.
        grid: Rows and columns of patches; a square by default.
        create_graph: Whether the map can be differentiated.

    Returns:
        One value a patch, in the order of the image.

    Raises:
        ValueError: If the model records no attention, or an argument is not as stated.
    """
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        raise ValueError(
            f"layer={layer!r} must be an integer: layers are counted from the input, the last is -1"
        )
    with derivatives(create_graph, x, target) as (x, target):
        maps, _ = _recorded(model, x, target, create_graph)
        if not -len(maps) <= layer < len(maps):
            raise ValueError(
                f"layer={layer!r} is not in [-{len(maps)}, {len(maps)}): the layers of this model"
            )
        return _patches(maps[layer].mean(dim=1), model, query, grid)


def rollout(
    model: Model,
    x: Images,
    target: Target | None = None,
    *,
    normalise: bool = True,
    query: Query | None = None,
    grid: tuple[int, int] | None = None,
    create_graph: bool = False,
) -> PatchMap:
    r"""Return attention rollout, a row of $\hat A_L \cdots \hat A_1$ (Abnar & Zuidema 2020).

    $\hat A_l = (\bar A_l + I) / 2$ with the mean $\bar A_l$ over heads; the identity stands for the residual
    connection.

    Args:
        model: A model whose attention layers record.
        x: Images.
        target: Checked if given, and without influence.
        normalise: Whether rows of $\bar A_l + I$ are divided by their sum instead of by 2. For softmax that is the
            same; for attention whose rows do not sum to one it puts the simplex back that such a kernel avoids.
        query: As in `raw_attention`.
        grid: As in `raw_attention`.
        create_graph: Whether the map can be differentiated.

    Returns:
        One value a patch.

    Raises:
        ValueError: If the model records no attention, or an argument is not as stated.
    """
    with derivatives(create_graph, x, target) as (x, target):
        maps, _ = _recorded(model, x, target, create_graph)
        product = torch.empty(0)
        for index, layer in enumerate(maps):
            step = layer.mean(dim=1) + torch.eye(layer.shape[-1], dtype=layer.dtype, device=layer.device)
            step = step / (step.sum(dim=-1, keepdim=True) if normalise else 2)
            product = step @ product if index else step
        return _patches(product, model, query, grid)


def gradient_rollout(
    model: Model,
    x: Images,
    target: Target,
    *,
    query: Query | None = None,
    grid: tuple[int, int] | None = None,
    create_graph: bool = False,
) -> PatchMap:
    r"""Return gradient-weighted attention, a row of $R = (I + \bar A_L) \cdots (I + \bar A_1)$, without the $I$.

    $\bar A_l = \mathrm{mean}_h (\nabla A_l \odot A_l)^+$ with the gradient of the target's logit with respect to the
    map (Chefer et al. 2021, "Generic attention-model explainability", eqs. 5 and 6, self-attention).

    Args:
        model: A model whose attention layers record.
        x: Images.
        target: The class of each image, or one for all.
        query: As in `raw_attention`.
        grid: As in `raw_attention`.
        create_graph: Whether the map can be differentiated: a second derivative of the model.

    Returns:
        One value a patch, at least 0; all 0 where no layer's map raises the logit.

    Raises:
        ValueError: If the model records no attention, or an argument is not as stated.
    """
    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)  # before the target, which is checked against them
        maps, found = _recorded(model, x, check_target(target, x), create_graph, gradients=True)
        logit = cast(Tensor, found)
        slopes = torch.autograd.grad(
            logit,
            maps,
            torch.ones_like(logit),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        if not create_graph:
            warn_of_nan(torch.stack([slope.flatten(1).sum(dim=1) for slope in slopes], dim=1))
        eye = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
        relevance = eye
        for layer, slope in zip(maps, slopes, strict=True):
            relevance = relevance + (slope * layer).clamp_min(0).mean(dim=1) @ relevance
        relevance = relevance - eye
        return _patches(relevance, model, query, grid)


def _recorded(
    model: Model, x: Images, target: Target | None, create_graph: bool, *, gradients: bool = False
) -> tuple[list[Float[Tensor, "batch head query key"]], Tensor | None]:
    """Return the maps of all layers and the logit of the target, where one is given."""
    check_images(x)
    check_steady(model)
    target = None if target is None else check_target(target, x)
    if not create_graph or (gradients and not x.requires_grad):
        x = x.detach().requires_grad_(gradients)
    with (
        torch.set_grad_enabled(create_graph or gradients),
        nullcontext() if create_graph else frozen(model),
        sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext(),
        recording_torch_layers(model),
        record() as tape,
    ):
        logits = outputs(model, x)
        logit = None if target is None else target_logit(logits, target)
    maps = tape.maps
    if not maps:
        raise ValueError(
            f"model {type(model).__name__} recorded no attention map; attention methods need layers that record "
            "(faultlines.models.Attention, torch.nn.MultiheadAttention, or your own with record_attention)"
        )
    if shapes := sorted({tuple(m.shape[-2:]) for m in maps if m.shape[-2:] != (maps[0].shape[-1],) * 2}):
        raise ValueError(
            f"model has attention maps of shapes {shapes} beside {tuple(maps[0].shape[-2:])}; "
            "attention methods need one set of tokens through all layers"
        )
    if create_graph and gradients:
        refuse_fused(logits, x)
    return maps, logit


def _patches(
    rows: Float[Tensor, "batch query key"], model: Model, query: Query | None, grid: tuple[int, int] | None
) -> PatchMap:
    """Return what the read-out attends to, on the grid of patches."""
    query = getattr(model, "pool", "cls") if query is None else query
    if query not in ("cls", "mean"):
        raise ValueError(f"query={query!r} is not one of 'cls', 'mean'")
    row = rows[:, 0, 1:] if query == "cls" else rows.mean(dim=1)
    side = math.isqrt(row.shape[1])
    grid = (side, side) if grid is None else grid
    if not isinstance(grid, (tuple, list)) or [type(s) for s in grid] != [int, int] or min(grid) < 1:
        raise ValueError(f"grid={grid!r} must be rows and columns of patches, two integers of at least 1")
    if math.prod(grid) != row.shape[1]:
        raise ValueError(
            f"grid={tuple(grid)} does not hold the {row.shape[1]} patches that query={query!r} leaves"
        )
    return row.unflatten(1, grid)
