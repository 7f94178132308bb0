"""Grad-CAM with the last convolution as its layer where the model names none."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from faultlines.estimators import gradcam
from faultlines.estimators.attribution.checks import check_images, check_target
from faultlines.estimators.attribution.gradient import Images, Target
from faultlines.estimators.attribution.mode import derivatives


def grad_cam(
    model: nn.Module,
    x: Images,
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    relu: bool = True,
    center: bool = False,
    create_graph: bool = False,
) -> Float[Tensor, "batch height width"]:
    """Return `faultlines.estimators.gradcam.grad_cam`, at the resolution of the layer.

    Args:
        model: A convolutional network.
        x: Images.
        target: The class of each image, or one for all.
        layer: The layer whose output is mapped; by default `model.features` where a linear head averages over
            it, and the last `nn.Conv2d` of the model otherwise.
        relu: Whether to cut negative evidence off.
        center: Whether to take the logit less the mean logit.
        create_graph: Whether the map can be differentiated.

    Returns:
        One map an image.

    Raises:
        ValueError: If an argument is not as stated, or the model has no convolution to default to.
    """
    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        target = check_target(target, x)
        if layer is None and not gradcam.pools_linearly(model):
            convolutions = [p for p in getattr(model, "modules", list)() if isinstance(p, nn.Conv2d)]
            if not convolutions:
                raise ValueError(
                    f"layer=None needs a model with an nn.Conv2d; {type(model).__name__} has none"
                )
            layer = convolutions[-1]
        options: dict[str, Any] = {"relu": relu, "center": center, "create_graph": create_graph}
        return gradcam.grad_cam(model, x, target, layer=layer, **options)
