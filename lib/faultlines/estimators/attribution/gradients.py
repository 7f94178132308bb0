"""The gradient of a logit in the image, its product with the image, and guided backpropagation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.estimators.forward import check_steady, derivatives, original, outputs, warn_of_nan
from faultlines.models.inference import frozen, logits_of
from faultlines.models.pixel_normalization import check_tensor

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Model = Callable[..., Any]


Images = Float[Tensor, "batch channel height width"]


Target = Int64[Tensor, " batch"] | int


def check_images(x: Tensor) -> None:
    """Check a batch of images.

    Raises:
        ValueError: If `x` is no floating-point `[batch, channel, height, width]` with at least one pixel.
    """
    check_tensor(x, "x")
    if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}; floating [batch, channel, height, width] with "
            "at least one image and one pixel is needed"
        )


def check_count(n: int, name: str) -> None:
    """Check a number of steps or samples.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"{name}={n!r} must be an integer, at least 1")


def check_target(target: Int64[Tensor, " batch"] | int, x: Tensor) -> Int64[Tensor, " batch"]:
    """Return the class to explain of each image.

    Raises:
        ValueError: If `target` is neither an integer nor one integer class an image, or negative.
    """
    if isinstance(target, Integral) and not isinstance(target, bool):
        target = torch.full((len(x),), int(target), device=x.device)
    if not isinstance(target, Tensor):
        raise ValueError(f"target is {target!r}; it must be one class, or integers of shape ({len(x)},)")
    if target.dtype not in INTEGERS or target.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"target has dtype {target.dtype} and shape {tuple(target.shape)}; it must be one class, or integers of "
            f"shape ({len(x)},)"
        )
    target = target.long().expand(len(x))
    if target.device != x.device:
        raise ValueError(f"target is on {target.device}, x on {x.device}; they must be on one device")
    if target.min() < 0:
        raise ValueError(f"target has the class {int(target.min())}; classes start at 0")
    return target


def target_logit(logits: Float[Tensor, "n classes"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the logit of each image's target.

    Raises:
        ValueError: If the model did not return logits `[n, classes]`, or a target is no class of it.
    """
    if logits.ndim != 2 or len(logits) != len(target):
        raise ValueError(
            f"model returned shape {tuple(logits.shape)} for {len(target)} images; "
            f"({len(target)}, classes) is needed"
        )
    if target.max() >= logits.shape[1]:
        raise ValueError(
            f"target has the class {int(target.max())}; this model has classes 0 to {logits.shape[1] - 1}"
        )
    return logits.gather(1, target[:, None]).squeeze(1)


def gradient(model: Model, x: Images, target: Target, *, create_graph: bool = False) -> Images:
    r"""Return $\partial z_t / \partial x$ of the target's logit, signed (Simonyan et al. 2014, without the modulus).

    Samples must not mix and answers not change from call to call: a model with batch normalisation or dropout belongs
    in eval mode, and is refused in training mode. Another head is another model,
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
    check_steady(model)
    if not (create_graph and points.requires_grad):
        points = points.detach().requires_grad_()
    # torch's composite form of attention is the one that has a second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if create_graph else frozen(model):
        logits = target_logit(outputs(model, points), target)
        if create_graph:
            refuse_fused(logits, points)
        if not logits.requires_grad:
            return 0 * points if create_graph else torch.zeros_like(points)
        (found,) = torch.autograd.grad(
            logits.sum(), points, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        if not create_graph:
            warn_of_nan(found)
        return found + 0 * points if create_graph else found


def refuse_fused(output: Tensor, points: Tensor) -> None:
    """Refuse an output that went from `points` through a fused attention kernel.

    Raises:
        ValueError: If its graph holds a kernel whose backward pass has no derivative.
    """
    seen: set[Any] = {None, points.grad_fn}
    todo: list[Any] = [output.grad_fn]
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


class _Logits(nn.Module):
    """A model that returns its logits alone, as captum expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model(x))


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
    model = original(model)
    if not isinstance(model, nn.Module) or not any(isinstance(part, nn.ReLU) for part in model.modules()):
        raise ValueError(
            f"model {type(model).__name__} has no nn.ReLU module; guided_backprop is defined for networks of them"
        )
    from faultlines.estimators.extras import (
        GuidedBackprop,  # it takes a second to import, and no other method needs it
    )

    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        target = check_target(target, x)
        check_steady(model)
        with torch.no_grad():
            # captum has no error of its own for a wrong class
            target_logit(outputs(model, x[:1]), target.amax().view(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # captum announces its hooks at every call
            return GuidedBackprop(_Logits(model)).attribute(x.detach().clone(), target=target)
