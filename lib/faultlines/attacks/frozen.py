"""Run a model without recording what only its weights' gradients would need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def frozen(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put stand-ins of the same storage that need no gradient in the place of a module's parameters.

    An attack differentiates with respect to the input alone; with weights that ask for gradients autograd would
    still keep every layer's input alive. The parameters themselves are not touched, and are back in their places
    when the block ends, also by an exception. A callable that is no module is left as it is.

    Args:
        model: What will be differentiated with respect to its input.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> with frozen(model):
        ...     print(model.weight.requires_grad, model(torch.rand(1, 3)).requires_grad)
        False False
        >>> model.weight.requires_grad
        True
    """
    held = [
        (layer, name, parameter)
        for layer in (model.modules() if isinstance(model, nn.Module) else ())
        for name, parameter in layer._parameters.items()
        if parameter is not None and parameter.requires_grad and not is_lazy(parameter)
    ]
    try:
        for layer, name, parameter in held:
            layer._parameters[name] = nn.Parameter(parameter.detach(), requires_grad=False)
        yield
    finally:
        for layer, name, parameter in held:
            layer._parameters[name] = parameter
