"""The gradient of a logit with respect to the image, and its product with the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.estimators.attribution.checks import check_images, check_target, target_logit
from faultlines.estimators.attribution.mode import derivatives
from faultlines.models.inference import frozen

Model = Callable[[Tensor], Tensor]
Images = Float[Tensor, "batch channel height width"]
Target = Int64[Tensor, " batch"] | int


def gradient(model: Model, x: Images, target: Target, *, create_graph: bool = False) -> Images:
    r"""Return $\partial z_t / \partial x$ of the target's logit, signed (Simonyan et al. 2014, without the modulus).

    Samples must not mix: a model with batch normalisation belongs in eval mode. Another head is another model,
    `lambda x: model(x).log_softmax(1)` say; saturated heads have gradients near zero, and maps of noise.

    Args:
        model: Maps images to logits `[batch, classes]`.
        x: Images; the caller's tensor is not changed.
        target: The class of each image, or one for all.
        create_graph: Whether the result can be differentiated: with respect to `x` where `x` requires a
            gradient, and to the model's parameters. The model then runs with the explicit form of attention.

    Returns:
        One gradient an image; zero where the logit does not depend on the image. With `create_graph` it depends
        on `x` even then, with derivative 0: a linear model has a constant gradient.

    Raises:
        ValueError: If an argument is not as stated, or a second derivative is asked of a fused kernel.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> e = gradient(model, torch.rand(2, 1, 2, 2), target=1)
        >>> torch.equal(e[0], model[1].weight[1].view(1, 2, 2))
        True
    """
    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        return logit_gradient(model, x, check_target(target, x), create_graph=create_graph)


def input_x_gradient(model: Model, x: Images, target: Target, *, create_graph: bool = False) -> Images:
    r"""Return $x \odot \partial z_t / \partial x$, signed (Shrikumar et al. 2016).

    Arguments and errors are those of `gradient`.
    """
    with derivatives(create_graph, x, target) as (x, target):
        return x * gradient(model, x, target, create_graph=create_graph)


def logit_gradient(
    model: Model, points: Images, target: Int64[Tensor, " batch"], *, create_graph: bool
) -> Images:
    """Return what `gradient` returns, of arguments that are checked."""
    if not (create_graph and points.requires_grad):
        points = points.detach().requires_grad_()
    # torch's composite form of attention is the one that has a second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if create_graph else frozen(model):
        logits = target_logit(model(points), target)
        if create_graph:
            refuse_fused(logits, points)
        if not logits.requires_grad:
            return 0 * points if create_graph else torch.zeros_like(points)
        (found,) = torch.autograd.grad(
            logits.sum(), points, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return found + 0 * points if create_graph else found


def refuse_fused(output: Tensor, points: Tensor) -> None:
    """Refuse an output that went from `points` through a fused attention kernel.

    Raises:
        ValueError: If its graph holds a kernel whose backward pass has no derivative.
    """
    seen, todo = {None, points.grad_fn}, [output.grad_fn]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().startswith(("ScaledDotProduct", "_ScaledDotProduct", "FlashAttention")):
            raise ValueError(
                f"model runs the fused attention kernel {node.name()}, which has no second derivative, and "
                "create_graph=True needs one; use its explicit form (fused='never', or SDPBackend.MATH)"
            )
        todo.extend(parent for parent, _ in node.next_functions)
