r"""From curvature in the parameters to curvature in the input, through the first linear layer.

With $z = W h + b$ the first layer's output on its input $h$, and a logit $f$ that depends on $h$ through $z$ alone,
$\nabla_h f = W^\top u$ and $\nabla_W f = u h^\top$ for $u = \partial f / \partial z$, hence
$\lVert \nabla_h f \rVert \le \lVert W \rVert_2 \lVert \nabla_W f \rVert_F / \lVert h \rVert$ (Ma and Ying 2021). With
$A = \partial^2 f / \partial z^2$ likewise $\nabla_h^2 f = W^\top A W$ and $\nabla_W^2 f = A \otimes h h^\top$, so that

$$\lVert \nabla_h^2 f \rVert_2 \le \frac{\lVert W \rVert_2^2}{\lVert h \rVert^2} \lVert \nabla_W^2 f \rVert_2
  \le \frac{\lVert W \rVert_2^2}{\lVert h \rVert^2} \lVert \nabla_\theta^2 f \rVert_2 .$$

Both hold for each sample. A layer that shares its weights, a convolution or a patch embedding, sums over places:
there $\nabla_W f$ may cancel, and neither inequality need hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.estimators.curvature.hessian_vector import HessianProduct
from faultlines.estimators.curvature.inputs import check_inputs, check_targets, input_hessian
from faultlines.estimators.curvature.krylov import lanczos, lengths
from faultlines.estimators.forward import check_steady, in_any_mode, original, outputs


@dataclass(frozen=True)
class CurvatureLink:
    r"""Both sides of the inequalities, `[batch]` each.

    Attributes:
        gradient: $\lVert \nabla_h f \rVert$.
        gradient_bound: $\lVert W \rVert_2 \lVert \nabla_W f \rVert_F / \lVert h \rVert$.
        hessian: $\lVert \nabla_h^2 f \rVert_2$.
        layer_bound: $(\lVert W \rVert_2^2 / \lVert h \rVert^2) \lVert \nabla_W^2 f \rVert_2$.
        network_bound: The same with $\lVert \nabla_\theta^2 f \rVert_2$ over all parameters; None where it was not
            asked for.
        layer_hessian: $\lVert \nabla_W^2 f \rVert_2$.
        factor: $\lVert W \rVert_2^2 / \lVert h \rVert^2$; infinite for $h = 0$.
    """

    gradient: Float[Tensor, " batch"]
    gradient_bound: Float[Tensor, " batch"]
    hessian: Float[Tensor, " batch"]
    layer_bound: Float[Tensor, " batch"]
    network_bound: Float[Tensor, " batch"] | None
    layer_hessian: Float[Tensor, " batch"]
    factor: Float[Tensor, " batch"]


@in_any_mode
def curvature_link(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Int64[Tensor, " batch"],
    *,
    first: nn.Linear,
    network: bool = False,
    steps: int = 100,
    tol: float = 1e-4,
) -> CurvatureLink:
    r"""Return both sides of the two inequalities for the logit $f_y$ of each sample; see the module.

    The left sides are computed at $h$ as an input of its own, the right sides from $u$ and $A$ at $z$: neither is
    derived from the other. $h$ is what enters `first`, after any centring of the images.

    Args:
        model: Network in evaluation mode, whose logits depend on $h$ through `first` alone. Normalisation after
            `first` is fine. A ReLU network has zero on both sides of the second inequality: pass a smooth one.
        x: Inputs.
        y: The logit of each sample.
        first: A linear layer of `model` that runs once, on `[batch, features]`.
        network: Whether to compute `network_bound`, one Lanczos run over all parameters a sample.
        steps: At most so many products; see `lanczos`.
        tol: Relative accuracy of the norms. All are approached from below, so a bound is short by as much.

    Raises:
        ValueError: If `first` is no linear layer, did not run once, or ran on more than one row a sample; its weight
            is frozen and `network` asked for, for the Hessian over the other parameters bounds nothing; a target is
            no logit, there is no sample, or batch normalisation or dropout is in training mode.
    """
    if not isinstance(first, nn.Linear):
        raise ValueError(
            f"first is a {type(first).__name__}; the inequalities need an nn.Linear, without shared weights"
        )
    if network and not first.weight.requires_grad:
        raise ValueError(
            "first.weight has requires_grad=False, and network=True takes the Hessian over the parameters that "
            "require a gradient: without this one it bounds nothing; call first.requires_grad_(), or ask for "
            "network=False"
        )
    check_inputs(x, y)
    check_steady(model)
    model = original(model)
    h, f = _from_layer_input(model, first, x, y)
    shifts = h.new_zeros(len(h), first.out_features)
    options: dict[str, Any] = {"steps": steps, "tol": tol, "end": "magnitude"}
    generator = torch.Generator(x.device).manual_seed(0)

    def norms(at_input: bool) -> tuple[Tensor, Tensor]:
        at = h if at_input else shifts
        gradient, product = input_hessian(f if at_input else lambda s: f(h, s), at, y)
        start = torch.randn(at.shape, generator=generator, device=at.device, dtype=at.dtype)
        return lengths(gradient), lanczos(product, start, **options).values[:, 0].abs()

    gradient, hessian = norms(at_input=True)
    u, a = norms(at_input=False)
    w, length = torch.linalg.matrix_norm(first.weight.detach(), ord=2), lengths(h)
    factor = (w / length).square()
    bound = None
    if network:
        sharpness = [_sample_sharpness(model, x[i : i + 1], y[i : i + 1], options) for i in range(len(x))]
        bound = factor * torch.stack(sharpness)
    # |h| cancels: |grad_W f|_F = |u| |h| and |hess_W f|_2 = |A| |h|^2
    return CurvatureLink(gradient, w * u, hessian, w.square() * a, bound, a * length.square(), factor)


def _from_layer_input(model: nn.Module, first: nn.Linear, x: Tensor, y: Tensor) -> tuple:
    """Return what enters `first`, and the logits as a function of it and of a shift of what leaves `first`."""
    seen: list[Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            check_targets(outputs(model, x), x, y)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(f"first ran {len(seen)} times in one pass of model; it must run once")
    (h,) = seen
    if h.shape != (len(x), first.in_features):
        raise ValueError(
            f"first ran on shape {tuple(h.shape)}; [batch, features] = {(len(x), first.in_features)} is needed"
        )

    def logits(h: Tensor, shift: Tensor | None = None) -> Tensor:
        handles = [first.register_forward_pre_hook(lambda *_: (h,))]
        if shift is not None:
            handles.append(first.register_forward_hook(lambda *given: given[2] + shift))
        try:
            return outputs(model, x)
        finally:
            for handle in handles:
                handle.remove()

    return h, logits


def _sample_sharpness(model: nn.Module, x: Tensor, y: Tensor, options: dict) -> Tensor:
    product = HessianProduct(model, x, y, loss=lambda logits, y: logits.gather(1, y[:, None]).mean())
    like = product.like
    generator = torch.Generator(like.device).manual_seed(0)
    start = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return lanczos(product, start, **options).values[0, 0].abs()
