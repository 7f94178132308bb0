"""Kernels of networks of finite width: the NTK of any module, and how far a width's predictor is from the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from faultlines.estimators.forward import check_steady, full_float32, in_any_mode, original, warn_of_nan
from faultlines.estimators.ntk.ridge import KernelRidge, check_kernel, check_ridge, name_duplicates
from faultlines.estimators.ntk.two_layer import kernels_by_width, relu_ntk
from faultlines.models.inference import logits_of, one_precision


@in_any_mode
def empirical_ntk(
    model: nn.Module,
    x1: Float[Tensor, "n *shape"],
    x2: Float[Tensor, "t *shape"] | None = None,
    *,
    trace: bool = True,
    chunk: int | None = 64,
) -> Tensor:
    r"""Return $\Theta(x, x') = J(x) J(x')^\top$ over all parameters that require a gradient.

    Samples must not mix in the forward pass: batch normalisation in training mode is refused.

    Args:
        model: Maps `[n, *shape]` to `[n]` or `[n, k]`.
        x1: Samples.
        x2: Other samples, `x1` by default.
        trace: Whether to average over outputs, $\frac{1}{k} \sum_j \Theta_{jj}$, or return all pairs of them.
        chunk: Samples whose Jacobian is computed at a time; None takes all.

    Returns:
        `[n, t]` with `trace`, else `[n, t, k, k]` (`k = 1` for a scalar output).

    Raises:
        ValueError: If no parameter requires a gradient.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> empirical_ntk(linear, torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_steady(model)
    model = original(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        raise ValueError("model has no parameter that requires a gradient; its tangent kernel is empty")
    params = {name: p.detach() for name, p in model.named_parameters()}
    fixed = {n: p for n, p in params.items() if n not in names} | dict(model.named_buffers())
    free = {name: params[name] for name in names}

    def output(free: dict[str, Tensor], sample: Tensor) -> Tensor:
        return logits_of(functional_call(model, (free, fixed), (sample[None],))).reshape(-1)

    jacobian = vmap(jacrev(output), in_dims=(None, 0), chunk_size=chunk)
    with one_precision(model, x1):
        j1 = jacobian(free, x1)
        j2 = j1 if x2 is None else jacobian(free, x2)
    spec = "nkp,tkp->nt" if trace else "nkp,tlp->ntkl"
    parts = [torch.einsum(spec, _flat(j1[name]), _flat(j2[name])) for name in names]
    kernel = sum(parts[1:], parts[0])
    warn_of_nan(kernel)
    return kernel / j1[names[0]].shape[1] if trace else kernel


def _flat(jacobian: Float[Tensor, "n k *shape"]) -> Float[Tensor, "n k p"]:
    return jacobian.reshape(*jacobian.shape[:2], -1)  # a parameter may be one number, without an axis


@dataclass(frozen=True)
class WidthSweep:
    r"""One network grown through the widths, against its limit.

    Attributes:
        widths: The widths $m$.
        ridges: The ridges $\lambda$.
        distance: $\lVert f_{K_m} - f_{K_\infty} \rVert_2$ over the test rows, `[ridge, width]`.
        norm: $\lVert f_{K_m} \rVert_2$, `[ridge, width]`.
        limit_norm: $\lVert f_{K_\infty} \rVert_2$, `[ridge]`.
        residual: Root mean square of $y - f_{K_m}$ on the training rows, `[ridge, width]`.
        least_ratio: $\lambda_{\min}(K_m) / \lambda_{\min}(K_\infty)$, `[width]`.
        frobenius: $\lVert K_m - K_\infty \rVert_F / \lVert K_\infty \rVert_F$, `[width]`.
        limit_least: $\lambda_{\min}(K_\infty)$.
    """

    widths: tuple[int, ...]
    ridges: tuple[float, ...]
    distance: Float[Tensor, "ridge width"]
    norm: Float[Tensor, "ridge width"]
    limit_norm: Float[Tensor, " ridge"]
    residual: Float[Tensor, "ridge width"]
    least_ratio: Float[Tensor, " width"]
    frobenius: Float[Tensor, " width"]
    limit_least: float


@full_float32()
def width_sweep(
    train: Float[Tensor, "n d"],
    test: Float[Tensor, "t d"],
    targets: Float[Tensor, " n"],
    *,
    widths: Sequence[int],
    ridges: Sequence[float],
    generator: torch.Generator,
) -> WidthSweep:
    r"""Compare kernel ridge regression with $K_m$ and with $K_\infty$.

    Args:
        train: Unit training rows.
        test: Unit test rows.
        targets: $\pm 1$ targets.
        widths: Increasing widths; each network contains the one before.
        ridges: Ridges, above 0: $K_m$ is singular for small widths.
        generator: Source of the hidden weights.

    Raises:
        ValueError: If an argument is not as stated, or training rows are duplicates.

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> x = x / x.norm(dim=1, keepdim=True)
        >>> sweep = width_sweep(x[:8], x[8:], x[:8, 0].sign(), widths=[8, 8192], ridges=[0.1],
        ...                     generator=torch.Generator().manual_seed(1))
        >>> bool(sweep.distance[0, 1] < sweep.distance[0, 0])
        True
    """
    for ridge in ridges:
        check_ridge(ridge)
        if ridge == 0:
            raise ValueError(
                "ridges holds 0, which leaves the kernel of a narrow network singular; use a ridge above 0"
            )
    both = torch.cat([train, test])
    n = len(train)
    limit = relu_ntk(both, train)
    limits = [KernelRidge(limit[:n], targets, ridge)(limit[n:]) for ridge in ridges]
    check_kernel(limit[:n], "limit kernel")
    values = torch.linalg.eigvalsh(limit[:n])
    if float(values[0]) <= n * torch.finfo(values.dtype).eps * float(values[-1]):
        raise ValueError(
            f"train gives a singular limit kernel{name_duplicates(limit[:n])}; its rows must all be different, or "
            "there is no smallest eigenvalue to compare with"
        )
    columns = []
    for _, kernel in kernels_by_width(both, train, widths=widths, generator=generator):
        fits = [KernelRidge(kernel[:n], targets, ridge) for ridge in ridges]
        predictions = [fit(kernel[n:]) for fit in fits]
        columns.append(
            {
                "distance": [float((f - g).norm()) for f, g in zip(predictions, limits, strict=True)],
                "norm": [float(f.norm()) for f in predictions],
                # y - K alpha = ridge alpha
                "residual": [
                    r * float(fit.alpha.square().mean().sqrt()) for r, fit in zip(ridges, fits, strict=True)
                ],
                "least_ratio": float(torch.linalg.eigvalsh(kernel[:n])[0].clamp_min(0) / values[0]),
                "frobenius": float((kernel[:n] - limit[:n]).norm() / limit[:n].norm()),
            }
        )
    gathered = {
        name: torch.tensor([c[name] for c in columns], dtype=torch.float64).movedim(0, -1)
        for name in columns[0]
    }
    return WidthSweep(
        tuple(widths), tuple(ridges), limit_norm=torch.stack([g.norm().cpu() for g in limits]),
        limit_least=float(values[0]), **gathered,
    )  # fmt: skip
