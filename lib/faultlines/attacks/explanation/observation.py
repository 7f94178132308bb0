"""The map of a sample and the model's logits there, from one forward pass where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.explanation.surrogate import Model, wrapped_forward

Explain = Callable[[Model, Tensor, Tensor], Tensor]


def observe(
    model: Model, explain: Explain, z: Float[Tensor, batch * dims], y: Int64[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, batch * map_dims]]:
    """Return logits and maps at `z`; both can be differentiated where `z` requires a gradient.

    An explanation that asks the model at `z` itself has made the forward pass already; where it asks elsewhere only
    (noisy or scaled copies), one is added.

    Args:
        model: Maps samples to logits.
        explain: Maps model, samples and classes to maps.
        z: The points.
        y: The classes explained.

    Raises:
        ValueError: If the maps are not floating, one a sample.
    """
    seen: list[Tensor] = []

    def wrap(forward: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            if not seen and args and _same(args[0], z) and isinstance(out, Tensor):
                seen.append(out)
            return out

        return watched

    with torch.enable_grad(), wrapped_forward(model, wrap) as watched:
        asked = z if z.requires_grad else z.detach().requires_grad_()
        maps = explain(watched, asked, y)
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.ndim < 2 or len(maps) != len(z):
        what = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"explain returned {what}; it must return floating maps [{len(z)}, height, width]")
    logits = seen[0] if seen else model(z)
    return logits, maps


def _same(a: Any, b: Tensor) -> bool:
    """Whether two tensors are one piece of memory read alike."""
    return (
        isinstance(a, Tensor)
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and a.data_ptr() == b.data_ptr()
    )
