"""Guided backpropagation, by captum."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from faultlines.estimators.attribution.checks import check_images, check_target, target_logit
from faultlines.estimators.attribution.gradient import Images, Target
from faultlines.estimators.attribution.mode import derivatives


def guided_backprop(model: nn.Module, x: Images, target: Target, *, create_graph: bool = False) -> Images:
    """Return the gradient with only its positive part let through at each ReLU (Springenberg et al. 2015), signed.

    The method is defined for networks of ReLU layers; others are refused, for there captum returns the plain
    gradient under this name. captum computes it, and it cannot be differentiated.

    Args:
        model: A network whose rectifiers are `nn.ReLU` modules; functional ones are not seen.
        x: Images.
        target: The class of each image, or one for all.
        create_graph: Must be False.

    Returns:
        One map an image.

    Raises:
        ValueError: If an argument is not as stated, or the model has no `nn.ReLU`.
    """
    if create_graph:
        raise ValueError("create_graph=True is not there for guided_backprop: captum's hooks leave no graph")
    if not isinstance(model, nn.Module) or not any(isinstance(part, nn.ReLU) for part in model.modules()):
        raise ValueError(
            f"model {type(model).__name__} has no nn.ReLU module; guided_backprop is defined for networks of them"
        )
    from captum.attr import GuidedBackprop  # it takes a second to import, and no other method needs it

    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        target = check_target(target, x)
        with torch.no_grad():
            # captum has no error of its own for a wrong class
            target_logit(model(x[:1]), target.amax().view(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # captum announces its hooks at every call
            return GuidedBackprop(model).attribute(x.detach().clone(), target=target)
