r"""The two-layer ReLU network of kernel theory, and its linearisation at the initial weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.linearized import check_rows


def hidden_weights(width: int, dim: int, seed: int) -> Float[Tensor, "m d"]:
    r"""Draw standard normal hidden weights in double precision; a kernel asks for no more of a network.

    Example:
        >>> hidden_weights(3, 2, seed=0).shape
        torch.Size([3, 2])
    """
    return torch.randn(width, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TwoLayerReLU(nn.Module):
    r"""$f(x) = \frac{1}{\sqrt m} \sum_{r=1}^m a_r\, \sigma(w_r^\top x)$ with $a_r = \pm 1$ fixed.

    Only the first layer is trained, as in Du et al. (2019, arXiv 1810.02054), whose setting the paper's theorems
    use. Each output has signs of its own and shares the hidden units.

    Args:
        dim: Input dimension.
        width: Number of hidden units $m$.
        outputs: Number of outputs; with one, the network returns `[n]`.
        init_scale: Standard deviation of the initial weights.
        antisymmetric: Give the second half of the units the weights of the first and opposite signs, so
            that $f = 0$ at the start. The kernel is that of the first half.
        generator: Source of weights and signs.
        dtype: Precision.

    Raises:
        ValueError: If a size is not positive, or an antisymmetric width is odd.

    Example:
        >>> net = TwoLayerReLU(3, 8, antisymmetric=True, generator=torch.Generator().manual_seed(0))
        >>> net(torch.ones(2, 3, dtype=torch.float64)).tolist()
        [0.0, 0.0]
    """

    signs: Tensor
    initial: Tensor

    def __init__(
        self,
        dim: int,
        width: int,
        outputs: int = 1,
        *,
        init_scale: float = 1.0,
        antisymmetric: bool = False,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("outputs", outputs)):
            if value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1")
        if not init_scale > 0:
            raise ValueError(f"init_scale={init_scale!r} must be above 0")
        if antisymmetric and width % 2:
            raise ValueError(f"width={width!r} must be even where antisymmetric=True")
        drawn = width // 2 if antisymmetric else width
        weight = init_scale * torch.randn(drawn, dim, generator=generator, dtype=dtype)
        signs = (2 * torch.randint(0, 2, (outputs, drawn), generator=generator) - 1).to(dtype)
        if antisymmetric:
            weight, signs = torch.cat([weight, weight]), torch.cat([signs, -signs], dim=1)
        self.weight = nn.Parameter(weight)
        self.register_buffer("signs", signs)
        self.register_buffer("initial", weight.clone())

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        """Return `[n]`, or `[n, outputs]` where there are several."""
        return _read(torch.relu(x @ self.weight.T), self.signs)


class LinearisedTwoLayer(nn.Module):
    r"""First-order Taylor expansion of a `TwoLayerReLU` in its weights, at its initial weights.

    $f_{\mathrm{lin}}(x) = \frac{1}{\sqrt m} \sum_r a_r\, 1[w_r(0)^\top x > 0]\, w_r^\top x$: the ReLU is positively
    homogeneous, so value and gradient at $w(0)$ add up to this.

    Args:
        network: The network; its initial weights are expanded around, its current weights are the start.

    Example:
        >>> net = TwoLayerReLU(3, 8, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(2, 3, dtype=torch.float64)
        >>> bool(torch.allclose(LinearisedTwoLayer(net)(x), net(x)))
        True
    """

    signs: Tensor
    initial: Tensor

    def __init__(self, network: TwoLayerReLU) -> None:
        super().__init__()
        self.weight = nn.Parameter(network.weight.detach().clone())
        self.register_buffer("signs", network.signs.clone())
        self.register_buffer("initial", network.initial.clone())

    def forward(self, x: Float[Tensor, "n d"]) -> Tensor:
        """Return `[n]`, or `[n, outputs]` where there are several."""
        active = (x @ self.initial.T > 0).to(x.dtype)
        return _read(active * (x @ self.weight.T), self.signs)


class KernelExpansion(nn.Module):
    r"""The finite-width kernel predictor $f(x) = \sum_i K_m(x, x_i)\, \alpha_i$ in weight space.

    $f(x) = \sum_r 1[w_r^\top x > 0]\, v_r^\top x$ with
    $v_r = \frac{1}{m} \sum_i \alpha_i 1[w_r^\top x_i > 0]\, x_i$: the linearised network after
    ridge regression. Its gradient in $x$ costs one pass, whatever the number of training rows.

    Args:
        weight: Hidden weights, `[m, d]`.
        rows: Training rows, `[n, d]`.
        alpha: Coefficients, `[n]` or `[n, k]`.
    """

    gates: Tensor
    values: Tensor

    def __init__(self, weight: Tensor, rows: Tensor, alpha: Tensor) -> None:
        super().__init__()
        check_rows(rows, "rows")
        active = (rows @ weight.T > 0).to(rows.dtype)
        columns = alpha.reshape(len(rows), -1)
        values = torch.stack([active.T @ (a[:, None] * rows) for a in columns.T]) / len(weight)
        self.vector = alpha.ndim == 1
        self.register_buffer("gates", weight)
        self.register_buffer("values", values)  # [k, m, d]

    def forward(self, x: Float[Tensor, "t d"]) -> Tensor:
        """Return `[t]`, or `[t, k]` for a matrix of coefficients."""
        active = (x.detach() @ self.gates.T > 0).to(x.dtype)
        out = torch.stack([(active * (x @ v.T)).sum(dim=1) for v in self.values], dim=1)
        return out[:, 0] if self.vector else out


def _read(hidden: Tensor, signs: Tensor) -> Tensor:
    out = hidden @ signs.T / hidden.shape[1] ** 0.5
    return out[:, 0] if len(signs) == 1 else out
