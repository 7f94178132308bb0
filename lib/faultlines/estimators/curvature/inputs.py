"""Curvature of a target logit in the input, per sample: gradient, Hessian norm, relative curvature.

A ReLU network is piecewise linear: these Hessians are zero almost everywhere, and so is what is reported. To measure
its curvature at a scale, pass its smooth twin (softplus with a stated beta on the same weights, `MLP`); numbers of
twins with different beta are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.estimators.curvature.krylov import lanczos, lengths
from faultlines.estimators.forward import check_steady, explicit_attention, in_any_mode, outputs, warn_of_nan
from faultlines.models.pixel_normalization import check_tensor


def check_inputs(x: Tensor, y: Tensor) -> None:
    """Check a batch of inputs.

    Raises:
        ValueError: If it is empty, not `[batch, ...]`, not float32 or float64, or not as long as `y`.
    """
    check_tensor(x, "x")
    check_tensor(y, "y")
    if x.ndim < 2 or 0 in x.shape or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}; float32 or float64 [batch, ...] with at least one "
            "sample and one entry is needed"
        )
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"x has {len(x)} samples and y {len(y) if y.ndim else 'no axis'}; one target a sample is needed"
        )


def check_targets(logits: Tensor, x: Tensor, y: Tensor) -> None:
    """Refuse targets that are no logits.

    Raises:
        ValueError: If shapes, dtype or values do not fit.
    """
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(
            f"the model returns shape {tuple(logits.shape)} for a batch of {len(x)}; [batch, classes] is needed"
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(
            f"y has shape {tuple(y.shape)} and dtype {y.dtype}; one int64 for each of {len(x)} samples is needed"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"y holds targets from {low} to {high}; the model's logits are 0 to {logits.shape[1] - 1}"
        )


Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InputCurvature:
    r"""Of each sample's target logit $f$.

    Attributes:
        gradient: $\lVert \nabla_x f \rVert_2$, `[batch]`.
        norm: $\lVert \nabla_x^2 f \rVert_2$, `[batch]`, never too large up to rounding.
        error: Estimated error of `norm`, `[batch]`; see `Eigenpairs`.
        steps: Hessian-vector products taken a sample, at most.
    """

    gradient: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    steps: int

    @property
    def relative(self) -> Float[Tensor, " batch"]:
        r"""$\kappa = \lVert \nabla_x^2 f \rVert_2 / \lVert \nabla_x f \rVert_2$, which no scale of the logits changes.

        Its inverse is the distance over which the gradient's direction can turn. Infinite where the gradient is
        zero and the Hessian is not, NaN where both are.
        """
        return self.norm / self.gradient


@in_any_mode
def input_curvature(
    model: Network,
    x: Float[Tensor, "batch ..."],
    y: Int64[Tensor, " batch"],
    *,
    steps: int = 64,
    tol: float = 1e-2,
    chunk_size: int = 256,
    generator: torch.Generator | None = None,
) -> InputCurvature:
    r"""Return gradient and Hessian norm of the logit $f_{y}$ in the input, by Lanczos for all samples at once.

    Args:
        model: Maps a batch to logits, sample by sample (evaluation mode).
        x: Inputs.
        y: The logit of each sample, from 0 to the number of classes less 1.
        steps: At most so many Hessian-vector products a sample.
        tol: Relative accuracy aimed at; see `lanczos`.
        chunk_size: Samples at once.
        generator: Source of the starting directions; seeded with 0 by default.

    Raises:
        ValueError: If an argument is out of range, a target is no logit, or batch normalisation or dropout is in
            training mode.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> model = lambda x: (torch.tensor([1.0, -3.0]) * x.square() / 2).sum(1, keepdim=True)
        >>> found = input_curvature(model, x, torch.tensor([0]))
        >>> round(found.norm.item(), 4), round(found.gradient.item() ** 2, 4)
        (3.0, 37.0)
    """
    check_inputs(x, y)
    generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
    start = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    start = start.to(x.device).flatten(1)
    gradients, norms, errors, taken = [], [], [], 0
    for xb, yb, starts in _chunks(x, y, chunk_size, start):
        gradient, product = input_hessian(model, xb, yb)
        found = lanczos(product, starts, steps=steps, tol=tol, end="magnitude")
        gradients.append(lengths(gradient))
        norms.append(found.values[:, 0].abs())
        errors.append(found.errors[:, 0])
        taken = max(taken, found.steps)
    return InputCurvature(torch.cat(gradients), torch.cat(norms), torch.cat(errors), taken)


@in_any_mode
def input_hessian(
    model: Network, x: Float[Tensor, "batch ..."], y: Int64[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch n"], Callable[[Tensor], Tensor]]:
    r"""Return $\nabla_x f_y$ of each sample, flat, and the product $v \mapsto \nabla_x^2 f_y\, v$ on flat batches.

    The graph is built once; each product is one backward pass for all samples. Attention runs in its explicit form,
    for a fused kernel has no second derivative.

    Raises:
        ValueError: If the model does not return `[batch, classes]`, a target is no logit, or batch normalisation or
            dropout is in training mode.
    """
    check_inputs(x, y)
    check_steady(model)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        with explicit_attention():
            logits = outputs(model, leaf)
        check_targets(logits, x, y)
        total = logits.gather(1, y[:, None]).sum()
        gradient = _derivative(total, leaf, create_graph=True)
    warn_of_nan(gradient)

    @in_any_mode
    def product(v: Tensor) -> Tensor:
        return _derivative(gradient, leaf, v.view_as(leaf)).flatten(1)

    return gradient.detach().flatten(1), product


def _derivative(
    output: Tensor, leaf: Tensor, weights: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    if not output.requires_grad:  # constant in the input: a linear model's gradient, say
        return torch.zeros_like(leaf)
    (value,) = torch.autograd.grad(
        output, leaf, weights, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return value


def _chunks(x: Tensor, y: Tensor, chunk_size: int, rows: Tensor) -> zip:
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, Integral) or chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size!r} must be an integer, at least 1")
    return zip(*(part.split(int(chunk_size)) for part in (x, y, rows)), strict=True)
