"""The empirical NTK of any module, by `torch.func`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from faultlines.estimators.forward import check_steady, in_any_mode, original, warn_of_nan
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
