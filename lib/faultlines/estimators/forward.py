"""How every estimator runs a model: its mode, the caller's autograd mode, what it may return, how attention runs."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.models.inference import logits_of, one_precision, unsteady_layers
from faultlines.models.pixel_normalization import check_tensor
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


def check_floating(x: Tensor) -> None:
    """Refuse what no derivative is taken in.

    Raises:
        ValueError: If `x` is no floating-point batch.
    """
    check_tensor(x, "x")
    if not x.is_floating_point() or x.ndim < 1:
        raise ValueError(f"x has dtype {x.dtype} and shape {tuple(x.shape)}; floating [batch, ...] is needed")


def outputs(model: Callable[..., Any], x: Tensor) -> Tensor:
    """Return what a model answers, its logits where it returns more than a tensor (`logits_of`).

    Raises:
        ValueError: If there are no logits in it, or the model drew random numbers (dropout as a function, say).
    """
    with one_precision(model, x), without_draws(x):
        return logits_of(model(x))


@contextmanager
def without_draws(x: Tensor) -> Iterator[None]:
    """Refuse a model that draws random numbers inside the block.

    Args:
        x: Its inputs, on whose device it draws.

    Raises:
        ValueError: If it did.
    """
    before = _random_state(x)
    yield
    if any(not torch.equal(old, new) for old, new in zip(before, _random_state(x), strict=True)):
        raise ValueError(
            "model draws random numbers in its forward pass, so that its answer to a sample changes with the call; "
            "call model.eval() first, or take the dropout out"
        )


def original(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, whose layers, parameters and hooks are in reach; or the model.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> original(torch.compile(layer)) is layer, original(layer) is layer
        (True, True)
    """
    return getattr(model, "_orig_mod", model)


def uncompiled() -> Any:
    """Return a context in which what `torch.compile` made runs as it was written, in whole or in part.

    Compiled code has no second derivative, and runs no hook that was set after it was compiled.
    """
    compiler = "torch._dynamo" in sys.modules  # without it nothing is compiled, and its import takes a second
    return torch.compiler.set_stance("force_eager") if compiler else nullcontext()


@contextmanager
def explicit_attention() -> Iterator[None]:
    """Run attention in its explicit form, of this library and of torch: fused kernels have no second derivative."""
    with record(), sdpa_kernel(SDPBackend.MATH), uncompiled():
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
    eager = uncompiled() if create_graph else nullcontext()
    with _outside_inference(), torch.set_grad_enabled(create_graph), eager:
        yield [_usable(a) for a in given]


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute products and convolutions of float32 in float32, whatever the process allows meanwhile.

    Torch lets a GPU's convolutions, and with `torch.set_float32_matmul_precision("high")` its products as well, round
    factors to the ten bits of TF32, and `torch.autocast` to those of bfloat16. Training bears that; a bound that is
    violated by a thousandth, or a kernel whose smallest eigenvalue is a ten-thousandth, does not. Usable as a
    decorator. The settings are the process's, and are as they were afterwards.

    Example:
        >>> torch.backends.cuda.matmul.fp32_precision = "tf32"
        >>> with full_float32():
        ...     torch.backends.cuda.matmul.fp32_precision
        'ieee'
        >>> torch.backends.cuda.matmul.fp32_precision
        'tf32'
        >>> torch.backends.cuda.matmul.fp32_precision = "none"
    """
    there: Any = torch.backends
    computing = [there.cuda.matmul, there.cudnn.conv, there.cudnn.rnn, there.mkldnn.matmul, there.mkldnn.conv]
    allowed = [part.fp32_precision for part in computing]
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            for part in computing:
                part.fp32_precision = "ieee"
            yield
        finally:
            for part, precision in zip(computing, allowed, strict=True):
                part.fp32_precision = precision


def in_any_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that differentiates be called under `torch.inference_mode()`, as under `torch.no_grad()`.

    It computes in full float32; see `full_float32`.

    Raises:
        ValueError: If an argument is a numpy array; the message names it.

    Example:
        >>> slope = in_any_mode(lambda x: torch.func.grad(torch.sum)(x))
        >>> with torch.inference_mode():
        ...     slope(torch.zeros(2))
        tensor([1., 1.])
    """
    names = list(signature(function).parameters)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, given in (*zip(names, args, strict=False), *kwargs.items()):
            if isinstance(given, np.ndarray):
                check_tensor(given, name)
        with _outside_inference(), full_float32():
            positional: Any = map(_usable, args)
            named: Any = {name: _usable(a) for name, a in kwargs.items()}
            return cast(Any, function)(*positional, **named)

    return run


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that trains be called under `torch.no_grad()` and `torch.inference_mode()`.

    Example:
        >>> @with_gradients
        ... def train():
        ...     return (2 * torch.ones(1, requires_grad=True)).requires_grad
        >>> with torch.no_grad():
        ...     train()
        True
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _outside_inference(), torch.enable_grad():
            positional: Any = map(_usable, args)
            named: Any = {name: _usable(a) for name, a in kwargs.items()}
            return cast(Any, function)(*positional, **named)

    return run


def warn_of_nan(derivative: Tensor) -> None:
    """Warn that a derivative is no number, which a model may have where its answer is one.

    Args:
        derivative: Of one sample a row.
    """
    flat = derivative.detach().flatten(1) if derivative.ndim > 1 else derivative.detach()[:, None]
    if broken := int(flat.isnan().any(dim=1).sum()):
        warnings.warn(
            f"the derivative is NaN in {broken} of {len(flat)} rows, where the model's answer may be finite: a row of "
            "attention all of whose keys are masked does that, and a root or a norm at 0",
            stacklevel=_users_line(),
        )


def _users_line() -> int:
    """Return the `stacklevel` of the first caller that is not in this package or in torch."""
    inside = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), contextlib.__file__)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def _outside_inference() -> Any:
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def _usable(argument: Any) -> Any:
    return argument.clone() if isinstance(argument, Tensor) and argument.is_inference() else argument


def _random_state(x: Tensor) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if x.is_cuda:
        states.append(torch.cuda.get_rng_state(x.device))
    return states
