"""How every estimator runs a model: its mode, the caller's autograd mode, what it may return, how attention runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.models.inference import logits_of, unsteady_layers
from faultlines.models.recorder import record

P = ParamSpec("P")
R = TypeVar("R")


def check_steady(model: Callable[..., Any]) -> None:
    """Refuse a network that answers a sample otherwise at another call or in another batch.

    Raises:
        ValueError: If batch normalisation, dropout of any sort, or another such layer is in training mode.
    """
    if found := unsteady_layers(model):
        raise ValueError(
            f"model has {', '.join(found)} in training mode, so that its answer to a sample changes with the call or "
            "the batch; call model.eval() first"
        )


def outputs(model: Callable[..., Any], x: Tensor) -> Tensor:
    """Return what a model answers, its logits where it returns more than a tensor (`logits_of`).

    Raises:
        ValueError: If there are no logits in it, or the model drew random numbers (dropout as a function, say).
    """
    before = _random_state(x)
    found = model(x)
    if any(not torch.equal(old, new) for old, new in zip(before, _random_state(x), strict=True)):
        raise ValueError(
            "model draws random numbers in its forward pass, so that its answer to a sample changes with the call; "
            "call model.eval() first, or take the dropout out"
        )
    return logits_of(found)


def original(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, whose layers, parameters and hooks are in reach; or the model.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> original(torch.compile(layer)) is layer, original(layer) is layer
        (True, True)
    """
    return getattr(model, "_orig_mod", model)


@contextmanager
def explicit_attention() -> Iterator[None]:
    """Run attention in its explicit form, of this library and of torch: fused kernels have no second derivative."""
    with record(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def derivatives(create_graph: bool, *given: Any) -> Iterator[list[Any]]:
    """Leave `torch.inference_mode()`, and record what the block does where `create_graph` asks for it.

    In inference mode every derivative comes out as zero, or as an error of torch's. Without `create_graph` nothing
    is recorded outside the derivatives themselves: a map that carried part of its graph would pass for one that
    can be differentiated.

    Args:
        create_graph: Whether the result can be differentiated.
        given: Arguments of the method, of any type.

    Yields:
        The arguments; of a tensor made in inference mode a copy, for autograd does not take the tensor itself.

    Example:
        >>> with torch.inference_mode():
        ...     x = torch.rand(2)
        ...     with derivatives(True, x) as (copy,):
        ...         print(x.is_inference(), copy.is_inference(), copy.square().requires_grad)
        True False False
    """
    with _outside_inference(), torch.set_grad_enabled(create_graph):
        yield [_usable(a) for a in given]


def in_any_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that differentiates be called under `torch.inference_mode()`, as under `torch.no_grad()`.

    Example:
        >>> slope = in_any_mode(lambda x: torch.func.grad(torch.sum)(x))
        >>> with torch.inference_mode():
        ...     slope(torch.zeros(2))
        tensor([1., 1.])
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _outside_inference():
            positional: Any = map(_usable, args)
            named: Any = {name: _usable(a) for name, a in kwargs.items()}
            return cast(Any, function)(*positional, **named)

    return run


def _outside_inference() -> Any:
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def _usable(argument: Any) -> Any:
    return argument.clone() if isinstance(argument, Tensor) and argument.is_inference() else argument


def _random_state(x: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if x.is_cuda:
        states.append(torch.cuda.get_rng_state(x.device))
    return states
