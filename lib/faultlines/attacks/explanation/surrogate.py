r"""A smooth stand-in for ReLU networks, whose explanations are constant between kinks.

The input gradient of a ReLU network is piecewise constant, so the gradient of its explanation is zero almost
everywhere. Ghorbani et al. (2019) and Dombrowski et al. (2019) attack the same weights with
$\mathrm{softplus}_\beta(t) = \log(1 + e^{\beta t}) / \beta$ in the place of $\max(t, 0)$.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Model = Callable[[Tensor], Tensor]

IN_PLACE = {torch.relu_, torch.Tensor.relu_, F.leaky_relu_, F.hardtanh_}
RELU = {F.relu, torch.relu, torch.Tensor.relu, torch.relu_, torch.Tensor.relu_}
LEAKY = {F.leaky_relu, F.leaky_relu_}
CLIPPED = {F.hardtanh, F.hardtanh_, F.relu6}


class Activations(TorchFunctionMode):
    """Counts the piecewise linear activations that run inside it and, with `beta`, smooths them.

    They are ReLU as a module, a function or a method, leaky ReLU, ReLU6 and hard tanh, in place or not. Max pooling
    stays what it is.

    Args:
        beta: Sharpness of softplus; None counts only.
    """

    def __init__(self, beta: float | None = None) -> None:
        super().__init__()
        self.beta, self.count = beta, 0

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func`, or what stands in for it."""
        kwargs = dict(kwargs or {})
        if func not in RELU | LEAKY | CLIPPED:
            return func(*args, **kwargs)
        self.count += 1
        if self.beta is None:
            return func(*args, **kwargs)
        given = ("input", *_NAMES[func])
        bound = dict(zip(given, args, strict=False)) | kwargs
        t = bound["input"] if "input" in bound else bound["self"]
        in_place = func in IN_PLACE or bound.get("inplace", False)
        smooth = self._smooth(func, t.clone() if in_place else t, self.beta, bound)
        return t.copy_(smooth) if in_place else smooth

    @staticmethod
    def _smooth(func: Callable, t: Tensor, beta: float, bound: Mapping[str, Any]) -> Tensor:
        if func in RELU:
            return F.softplus(t, beta)
        if func in LEAKY:
            slope = bound.get("negative_slope", 0.01)
            return slope * t + (1 - slope) * F.softplus(t, beta)
        low, high = (0.0, 6.0) if func is F.relu6 else (bound.get("min_val", -1.0), bound.get("max_val", 1.0))
        return low + F.softplus(t - low, beta) - F.softplus(t - high, beta)


_NAMES = {
    **dict.fromkeys(RELU, ("inplace",)),
    F.leaky_relu: ("negative_slope", "inplace"),
    F.leaky_relu_: ("negative_slope",),
    F.relu6: ("inplace",),
    F.hardtanh: ("min_val", "max_val", "inplace"),
    F.hardtanh_: ("min_val", "max_val"),
}


@contextmanager
def wrapped_forward(
    model: Model, wrap: Callable[[Callable], Callable], *, everywhere: bool = False
) -> Iterator[Model]:
    """Lend the model with another forward pass.

    A module stays itself, so that hooks, layers and a recorder see what they know, and has its own forward pass back
    when the block ends; of another callable a wrapped one is lent.

    Args:
        model: What is called.
        wrap: Takes the forward pass, returns the one to run in its place.
        everywhere: Whether each layer's forward pass is wrapped too, for callers that do not go through the model's.
    """
    if not isinstance(model, nn.Module):
        yield wrap(model)
        return
    layers = list(model.modules()) if everywhere else [model]
    own = [vars(layer).get("forward") for layer in layers]  # that of a class is found again by itself
    try:
        for layer in layers:
            layer.forward = wrap(layer.forward)
        yield model
    finally:
        for layer, forward in zip(layers, own, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward


@contextmanager
def softplus_surrogate(model: Model, beta: float) -> Iterator[Model]:
    r"""Lend the model with $\mathrm{softplus}_\beta$ for ReLU: same weights, smooth explanations.

    ReLU is replaced wherever it runs inside the forward pass of the model or of one of its layers, as a module, a
    function or a method; leaky ReLU, ReLU6 and hard tanh are replaced likewise. Outside (the ReLU that ends Grad-CAM,
    say) nothing is, and max pooling stays. The largest error of one ReLU is $\log 2 / \beta$.

    Args:
        model: A module, or a function of images.
        beta: Sharpness, above 0; the published attacks take 10 to 100.

    Raises:
        ValueError: If `beta` is no positive number.

    Example:
        >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.rand(1, 2)
        >>> with softplus_surrogate(model, beta=30) as smooth:
        ...     bool((smooth(x) > 0).all())
        True
    """
    beta, inside = check_beta(beta), False

    def wrap(forward: Callable) -> Callable:
        def smooth(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return forward(*args, **kwargs)
            inside = True
            try:
                with Activations(beta):
                    return forward(*args, **kwargs)
            finally:
                inside = False

        return smooth

    with wrapped_forward(model, wrap, everywhere=True) as lent:
        yield lent


def count_relu(model: Model, x: Tensor) -> int:
    """Return how many piecewise linear activations run in one forward pass.

    Example:
        >>> count_relu(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.GELU()), torch.rand(1, 2))
        1
    """
    with torch.no_grad(), Activations() as seen:
        model(x)
    return seen.count


def check_beta(beta: float) -> float:
    """Return the sharpness of softplus.

    Raises:
        ValueError: If it is no finite number above 0.
    """
    if isinstance(beta, bool) or not isinstance(beta, Real) or not math.isfinite(beta) or beta <= 0:
        raise ValueError(f"surrogate_beta={beta!r} must be a finite number above 0")
    return float(beta)
