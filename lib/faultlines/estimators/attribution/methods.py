"""One call for every attribution method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.attribution.attention_maps import gradient_rollout, raw_attention, rollout
from faultlines.estimators.attribution.averaged_gradients import integrated_gradients, smoothgrad
from faultlines.estimators.attribution.cam import grad_cam
from faultlines.estimators.attribution.gradients import (
    Images,
    Model,
    Target,
    gradient,
    guided_backprop,
    input_x_gradient,
)
from faultlines.estimators.forward import check_steady, derivatives


def pixel_map(signed: Images) -> Float[Tensor, "batch height width"]:
    r"""Return $\sum_c |e_c|$ over the channels, as Ghorbani et al. (2019) and Dombrowski et al. (2019) do.

    At an entry of exactly 0 the derivative is taken as 0.

    Example:
        >>> import torch
        >>> pixel_map(torch.tensor([[[[1.0]], [[-2.0]]]]))
        tensor([[[3.]]])
    """
    return signed.abs().sum(dim=1)


PIXEL_METHODS: dict[str, Callable[..., Tensor]] = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "guided_backprop": guided_backprop,
}


METHODS: dict[str, Callable[..., Tensor]] = {
    **PIXEL_METHODS,
    "grad_cam": grad_cam,
    "raw_attention": raw_attention,
    "rollout": rollout,
    "gradient_rollout": gradient_rollout,
}


def attribute(
    model: Model,
    x: Images,
    target: Target,
    method: str = "gradient",
    create_graph: bool = False,
    **options: Any,
) -> Float[Tensor, "batch height width"]:
    """Return one map an image, on the grid that the method attributes to.

    For the methods that attribute to pixels (`PIXEL_METHODS`) that is the image's, and the map is the absolute value
    summed over channels: `pixel_map` of the signed attribution that the method's own function returns. For the
    attention methods it is the grid of patches, for Grad-CAM that of its layer.

    Args:
        model: Maps images to logits `[batch, classes]`; in eval mode where that matters.
        x: Images; the caller's tensor is not changed.
        target: The class of each image, or one for all.
        method: One of `METHODS`.
        create_graph: Whether the map can be differentiated, with respect to `x` where `x` requires a gradient
            and to the model's parameters.
        options: Further arguments of the method, by name.

    Returns:
        One map an image; a pixel map has no negative entry. A logit that does not depend on the image gives a zero map.

    Raises:
        ValueError: If the method or an option is unknown, the model is in training mode with layers for which that
            matters, or the method refuses an argument.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> attribute(model, torch.rand(5, 1, 4, 4), target=0, method="input_x_gradient").shape
        torch.Size([5, 4, 4])
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {sorted(METHODS)}")
    run = METHODS[method]
    known = inspect.signature(run).parameters
    if unknown := sorted(set(options) - set(known)):
        taken = sorted(set(known) - {"model", "x", "target", "create_graph"})
        raise ValueError(f"method={method!r} has no option {', '.join(unknown)}; it takes {taken}")
    check_steady(model)
    with derivatives(create_graph):
        found = run(model, x, target, create_graph=create_graph, **options)
        return pixel_map(found) if method in PIXEL_METHODS else found
