"""Gradients averaged over points near an image: the part that SmoothGrad and Integrated Gradients share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.attribution.checks import check_count
from faultlines.estimators.attribution.gradient import Images, Model, logit_gradient

Points = Float[Tensor, "point batch channel height width"]
CHUNK = 256  # images a forward pass; more of them leave the cache of a CPU


def averaged_gradient(
    model: Model,
    x: Images,
    target: Tensor,
    points: Callable[[int, int], Points],
    weights: Float[Tensor, " point"],
    *,
    create_graph: bool,
    chunk: int,
) -> Images:
    r"""Return $\sum_k w_k\, \nabla z_t(p_k)$, several points a pass.

    Args:
        model: Maps images to logits.
        x: Images, for their shape.
        target: The class of each image, checked.
        points: Returns the points `start` to `stop`, asked for in ascending order and once each.
        weights: $w_k$.
        create_graph: Whether the result can be differentiated, also through the points.
        chunk: At most so many images in one forward pass, or one batch where that is more.

    Raises:
        ValueError: If `chunk` is no positive integer.
    """
    check_count(chunk, "chunk")
    total, size = 0, max(1, chunk // len(x))
    for start in range(0, len(weights), size):
        w = weights[start : start + size]
        here = points(start, start + len(w))
        found = logit_gradient(model, here.flatten(0, 1), target.repeat(len(w)), create_graph=create_graph)
        total = total + torch.tensordot(w, found.unflatten(0, (len(w), len(x))), dims=1)
    return total
