"""Regularizers of attention maps: JaSMin, the softmax-Jacobian regularizer of arXiv 2507.07814, and their entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.estimators.softmax import softmax_jacobian_bound
from faultlines.models.inference import logits_of
from faultlines.models.pixel_normalization import check_tensor
from faultlines.models.recorder import record
from faultlines.training.objectives.objective import Model, Objective, check_number

Rows = Literal["max", "mean"]
Layers = Literal["mean", "sum", "last"]

FLOOR = 1e-12  # below it the logarithm is cut, and with it the gradient: a one-hot row is left alone


def check_jasmin(k: int, rows: str, layers: str) -> None:
    """Refuse what JaSMin is not defined for.

    Raises:
        ValueError: If `k` is negative, not an integer, or 1, or a reduction is unknown.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 0:
        raise ValueError(f"k={k!r} must be 0 or an integer >= 2")
    if k == 1:
        raise ValueError("k=1 makes JaSMin_1 = log(g_1 / g_1) = 0 for every map; take k=0 or k >= 2")
    if rows not in ("max", "mean"):
        raise ValueError(f"rows={rows!r} is not one of 'max', 'mean'")
    if layers not in ("mean", "sum", "last"):
        raise ValueError(f"layers={layers!r} is not one of 'mean', 'sum', 'last'")


def jasmin(
    maps: Sequence[Float[Tensor, "batch head query key"]],
    k: int = 0,
    *,
    rows: Rows = "max",
    layers: Layers = "mean",
) -> Float[Tensor, ""]:
    r"""JaSMin of the attention maps of one forward pass (arXiv 2507.07814, eq. 8 and 9).

    With $g_k(p) = p_{(k)} (1 - p_{(k)} + p_{(k+1)})$ over the sorted row, $p_{(n+1)} = 0$,

    $$\mathrm{JaSMin}_0(P) = \operatorname{mean} \max_i \log g_1(P_i), \qquad
      \mathrm{JaSMin}_k(P) = \operatorname{mean} \max_i \log \frac{g_1(P_i)}{g_k(P_i)}, \quad k \ge 2,$$

    the maximum over queries, the mean over layers, batch and heads. The paper's body was not readable: the
    two equations and the reductions are those of a public re-implementation that cites them, and whether the
    original sums or averages over layers and heads is unknown (it rescales the coefficient only).

    $\mathrm{JaSMin}_k \ge 0$ for $k \ge 2$, since $g_1 \ge p_{(2)} \ge p_{(k)} \ge g_k$; it vanishes where
    the first $k + 1$ entries tie. $\mathrm{JaSMin}_0$ has two attractors: the uniform row, with value $-\log
    n$, and the one-hot row, where it falls without bound and is cut at $\log 10^{-12}$. Under `rows="max"`
    one row of a map receives the gradient.

    Args:
        maps: One map a layer, rows on the simplex; half precision is raised to float32.
        k: 0, or from 2 to the number of keys.
        rows: Reduction over queries.
        layers: Reduction over layers; `"last"` takes the last one alone.

    Returns:
        A scalar.

    Raises:
        ValueError: If there is no map, an option is unknown, or `k` is 1 or exceeds the number of keys.

    Example:
        >>> import torch
        >>> uniform = torch.full((2, 4, 5, 5), 1 / 5)
        >>> round(jasmin([uniform]).item(), 4), abs(round(jasmin([uniform], k=3).item(), 4))  # -log 5, 0
        (-1.6094, 0.0)
    """
    check_jasmin(k, rows, layers)
    if not maps:
        raise ValueError("JaSMin needs attention maps, and the model recorded none")
    values = [_one_layer(p, k, rows) for p in (maps[-1:] if layers == "last" else maps)]
    return sum(values[1:], values[0]) / (1 if layers == "sum" else len(values))


def _one_layer(p: Tensor, k: int, rows: Rows) -> Tensor:
    keys = check_tensor(p, "maps").shape[-1]
    if k > keys:
        raise ValueError(f"k={k} exceeds the number of keys, {keys}")
    p = p.to(torch.promote_types(p.dtype, torch.float32))
    value = _log(softmax_jacobian_bound(p, 1, check=False))
    if k:
        value = value - _log(softmax_jacobian_bound(p, k, check=False))
    return (value.amax(dim=-1) if rows == "max" else value.mean(dim=-1)).mean()


def _log(g: Tensor) -> Tensor:
    return g.clamp(min=FLOOR).log()


@dataclass(frozen=True)
class JaSMin(Objective):
    r"""Cross-entropy plus `coefficient` times JaSMin of the recorded maps; see `jasmin`.

    Args:
        coefficient: $\lambda \ge 0$. It belongs to the reduction: a mean over layers, batch and heads.
        k: 0, or from 2 to the number of keys.
        rows: `"max"` or `"mean"` over queries.
        layers: `"mean"`, `"sum"` or `"last"` over layers.

    Raises:
        ValueError: If an argument is out of range; `k=1` is the constant 0.
    """

    per_member: ClassVar[tuple[str, ...]] = ("coefficient",)

    coefficient: float | Tensor
    k: int = 0
    rows: Rows = "max"
    layers: Layers = "mean"

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_jasmin(self.k, self.rows, self.layers)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and its terms `cross_entropy` and `jasmin` (without the coefficient)."""
        with record() as tape:
            loss = F.cross_entropy(logits_of(model(x)), y)
        penalty = jasmin(tape.maps, self.k, rows=self.rows, layers=self.layers)
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "jasmin": penalty}
