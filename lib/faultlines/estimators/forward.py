"""How every estimator runs a model: its mode, the autograd mode of the caller, what it may return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


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
    leave = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with leave, torch.set_grad_enabled(create_graph):
        yield [a.clone() if isinstance(a, Tensor) and a.is_inference() else a for a in given]


def check_mode(model: Callable[[Tensor], Tensor]) -> None:
    """Refuse a network whose function changes with the batch or from pass to pass; other callables are trusted.

    Raises:
        ValueError: If batch normalisation or dropout is in training mode.
    """
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        mixes = isinstance(module, nn.modules.batchnorm._NormBase) or (
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        )
        if module.training and mixes:
            raise ValueError(f"{name} ({type(module).__name__}) is in training mode; call model.eval() first")


def check_recording() -> None:
    """Refuse to work under `torch.inference_mode()`, where every derivative would come out as zero.

    Raises:
        RuntimeError: If inference mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "curvature needs derivatives, which torch.inference_mode() switches off for good: "
            "call it outside, or under torch.no_grad()"
        )
