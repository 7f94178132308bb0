"""The gradient in the input that penalties are made of, in a form that training can differentiate again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_and_value(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, ""]]:
    """Return the gradient of the scalar `f` at `x`, with a graph, and its value.

    Plain autograd where it can be: inside a transform of `torch.func` batch normalisation cannot count its batches.
    An ensemble trained in one call is such a transform itself, and there `torch.func` is used.
    """
    if torch._C._functorch.peek_interpreter_stack():
        return torch.func.grad_and_value(f)(x)
    wanted = torch.is_grad_enabled()  # a derivative is taken under no_grad, too, but none of it will be
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = f(x)
        (gradient,) = torch.autograd.grad(value, x, create_graph=wanted)
    return gradient, value
