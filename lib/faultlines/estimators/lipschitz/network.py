"""Lipschitz numbers of a whole classifier: the exact local norm of its logits, and the radius it suggests."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.spectral import spectral_norm


def logit_jacobian_norm(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    r"""Return $\lVert \partial\, \mathrm{logits} / \partial x \rVert_2$ of each sample, exactly.

    One backward pass a class (vectorised), then the largest singular value of a matrix with as many rows as
    classes. For many outputs `jacobian_norm` is cheaper.

    Args:
        model: Maps a batch to logits `[batch, classes]`, sample by sample (evaluation mode).
        x: Inputs.

    Returns:
        One norm a sample, in the dtype of `x`.

    Raises:
        ValueError: If the model's output is not `[batch, classes]`.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(4, 3)
        >>> norm = logit_jacobian_norm(linear, torch.zeros(2, 4))
        >>> bool(torch.allclose(norm, torch.linalg.matrix_norm(linear.weight, ord=2)))
        True
    """
    logits, pullback = torch.func.vjp(model, x.detach())
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 1:
        raise ValueError(
            f"model returned shape {tuple(logits.shape)} for a batch of {len(x)}; [batch, classes] is needed"
        )
    classes = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    unit = classes[:, None].expand(-1, len(x), -1)
    (rows,) = torch.func.vmap(pullback)(unit)  # [class, batch, ...]
    return spectral_norm(rows.flatten(2).transpose(0, 1)).detach()


def margin_radius(
    logits: Float[Tensor, "batch classes"], lipschitz: float | Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""Return $(z_{(1)} - z_{(2)}) / (\sqrt 2 L)$, an **estimate** of the distance to another class.

    It certifies a radius only where $L$ bounds the Jacobian on the whole ball of that radius. A norm at a
    point, which is what `logit_jacobian_norm` and `jacobian_norm` return, does not.

    Args:
        logits: Logits of each sample.
        lipschitz: Lipschitz constant of the logits, positive; one number, or one a sample.

    Returns:
        One radius a sample, in the units of the input.

    Raises:
        ValueError: If there are fewer than two classes, logits are no floating numbers, or `lipschitz` is not
            positive or not one number or one a sample.

    Example:
        >>> import torch
        >>> margin_radius(torch.tensor([[3.0, 1.0, 0.0]]), 2.0)
        tensor([0.7071])
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and dtype {logits.dtype}; floating [batch, classes >= 2] is "
            "needed"
        )
    constant = torch.as_tensor(lipschitz, dtype=logits.dtype, device=logits.device)
    if constant.shape not in ((), (len(logits),)):
        raise ValueError(
            f"lipschitz has shape {tuple(constant.shape)}; one number or [{len(logits)}] is needed"
        )
    if not bool((constant > 0).all()):
        raise ValueError(f"lipschitz={constant.min().item()} must be positive")
    top = logits.topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]) / (math.sqrt(2) * constant)
