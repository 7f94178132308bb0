"""The autograd mode that an attribution runs in, whatever the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


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
