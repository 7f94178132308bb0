"""One call for every attribution method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.attribution.gradient import Images, Model, Target, gradient, input_x_gradient


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
}
METHODS: dict[str, Callable[..., Tensor]] = {**PIXEL_METHODS}


def attribute(
    model: Model,
    x: Images,
    target: Target,
    method: str = "gradient",
    create_graph: bool = False,
    **options: Any,
) -> Float[Tensor, "batch height width"]:
    """Return one map an image.

    For the methods that attribute to pixels it is the absolute value summed over channels, `pixel_map` of the
    signed attribution that the method's own function returns.

    Args:
        model: Maps images to logits `[batch, classes]`; in eval mode where that matters.
        x: Images; the caller's tensor is not changed.
        target: The class of each image, or one for all.
        method: One of `METHODS`.
        create_graph: Whether the map can be differentiated, with respect to `x` where `x` requires a gradient
            and to the model's parameters.
        options: Further arguments of the method, by name.

    Returns:
        Non-negative maps on the pixels. A logit that does not depend on the image gives a zero map.

    Raises:
        ValueError: If the method or an option is unknown, or the method refuses an argument.

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
    found = run(model, x, target, create_graph=create_graph, **options)
    return pixel_map(found) if method in PIXEL_METHODS else found
