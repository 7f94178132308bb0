r"""Spectral norms of batches of matrices, and condition numbers with the truncation said aloud.

$\kappa(G)$ of $G = X X^\top$ is $(\sigma_1 / \sigma_r)^2$ of $X$. It depends on which $\sigma_r$ counts as the
smallest: images with a pixel that is always dark have $\sigma_{\min} = 0$. An eigensolver on $G$, let alone on
$G^3$, would lose the small values to rounding, so nothing here forms a Gram matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.forward import full_float32
from faultlines.models.linearized import check_rows
from faultlines.models.pixel_normalization import check_tensor


@full_float32()
def spectral_norm(m: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Return the largest singular value of each matrix, from the eigenvalues of its smaller Gram matrix.

    The largest singular value keeps full relative accuracy that way (the small ones would not), and a tall or
    wide matrix costs only its short side cubed. The eigenvalues are computed in float64, whatever the dtype of
    `m`, which is also that of the result, of a matrix scaled by a power of two, so that no square over- or
    underflows. A matrix that is not finite has the norm NaN.

    Raises:
        ValueError: If `m` is no floating matrix with at least one row and one column.

    Example:
        >>> import torch
        >>> spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]], dtype=torch.float64))
        tensor(4., dtype=torch.float64)
    """
    check_tensor(m, "m")
    if m.ndim < 2 or 0 in m.shape[-2:] or not m.is_floating_point():
        raise ValueError(
            f"m has shape {tuple(m.shape)} and dtype {m.dtype}; floating [..., rows, columns] is needed"
        )
    wide = m.double()
    largest = wide.detach().abs().amax(dim=(-2, -1), keepdim=True)
    finite = largest.isfinite()
    usable = finite & (largest > 0)
    scale = torch.where(usable, largest, 1).log2().round().clamp(-1000, 1000).exp2()
    wide = torch.where(finite, wide, 0) / scale
    gram = wide.mT @ wide if wide.shape[-2] >= wide.shape[-1] else wide @ wide.mT
    try:
        norm = torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt()
    except RuntimeError:  # torch.linalg.LinAlgError
        # LAPACK's solver was seen to give up on maps with many equal rows; the slower one does not
        norm = torch.linalg.svdvals(wide)[..., 0]
    norm = norm * scale[..., 0, 0]
    return torch.where(finite[..., 0, 0], norm, torch.nan).to(m.dtype)


Rule = Literal["rank", "energy", "top", "ridge"]


@dataclass(frozen=True)
class Condition:
    r"""A condition number and how it came about.

    Attributes:
        kappa: $\kappa(G)$ under the rule.
        rank: Number of eigenvalues that count.
        spectrum: Eigenvalues of $G$, falling, `[min(n, d)]`.
        rule: The rule's name.
        value: Its parameter.
    """

    kappa: float
    rank: int
    spectrum: Float[Tensor, " r"]
    rule: Rule
    value: float


@full_float32()
def gram_condition(x: Float[Tensor, "n d"], rule: Rule = "rank", value: float = 1e-10) -> Condition:
    r"""Return the condition number of $X X^\top$.

    Args:
        x: Rows.
        rule: Which eigenvalues $\mu_1 \ge \mu_2 \ge \dots$ of the Gram matrix count:
            `"rank"` those with $\sigma > \mathrm{value} \cdot \sigma_1$, in singular values of `x`;
            `"energy"` the fewest whose sum reaches the share `value` of the whole;
            `"top"` the first `value`, the paper's $\kappa_d$ with `value = min(n, d)`;
            `"ridge"` all, each raised by `value`: $(\mu_1 + \lambda) / (\mu_{\min} + \lambda)$.
        value: The rule's parameter.

    Returns:
        The condition number, infinite where the last eigenvalue that counts is zero.

    Raises:
        ValueError: If the rule is unknown or its parameter out of range.

    Example:
        >>> x = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
        >>> gram_condition(x).kappa, gram_condition(x, "energy", 0.9).kappa, gram_condition(x, "ridge", 1.0).kappa
        (16.0, 4.0, 8.5)
    """
    check_rows(x)
    singular = torch.linalg.svdvals(x)
    _check_rule(rule, value, len(singular))
    spectrum = singular.square()
    if rule == "rank":
        rank = int((singular > value * singular[0]).sum())
    elif rule == "energy":
        share = spectrum.cumsum(0) / spectrum.sum()
        rank = min(int((share < value).sum()) + 1, len(spectrum))
    elif rule == "top":
        rank = int(value)
    else:
        rank = len(spectrum)
    shift = value if rule == "ridge" else 0.0
    if rule == "ridge" and len(x) > x.shape[1]:
        least = 0.0  # the Gram matrix itself has n - d zeros
    else:
        least = float(spectrum[rank - 1])
    kappa = math.inf if least + shift == 0 else (float(spectrum[0]) + shift) / (least + shift)
    return Condition(kappa, rank, spectrum, rule, value)


@full_float32()
def amplification(x: Float[Tensor, "n d"], mapped: Float[Tensor, "n d"], tolerance: float) -> float:
    r"""Return the exponent $p$ with $\kappa(\tilde G) = \kappa(G)^p$ on the numerical rank of `x`.

    Args:
        x: Rows before the map.
        mapped: Rows after it.
        tolerance: Singular values of `x` above this share of the largest count; the same number of values
            counts on both sides. The map cubes their ratios, so `1 / tolerance**3` must be well within the precision.

    Raises:
        ValueError: If `tolerance` is out of range or too small for the precision, or only one value counts.
    """
    check_rows(mapped, "mapped")
    floor = torch.finfo(x.dtype).eps ** (1 / 4)
    if not floor < tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} must lie between {floor:.1e} and 1 for {x.dtype}")
    before, after = (torch.linalg.svdvals(rows) for rows in (x, mapped))
    rank = int((before > tolerance * before[0]).sum())
    if rank < 2:
        raise ValueError(f"tolerance={tolerance!r} leaves {rank} singular value; at least 2 must count")
    return float((after[0] / after[rank - 1]).log() / (before[0] / before[rank - 1]).log())


def predicted_width(
    kappa: float, *, version: Literal["v1", "v2"], n: int = 0, accuracy: float = 1.0
) -> float:
    r"""Return the width that the paper's Theorem 4.7 asks for, without its unknown constant.

    `v1` of arXiv 2603.13085: $\kappa^6 / \epsilon^2$; `v2`: $\kappa_d^6\, n \log n$.

    Args:
        kappa: Condition number of the input Gram matrix.
        version: Which version of the paper.
        n: Number of training samples, for v2.
        accuracy: $\epsilon$, for v1.

    Raises:
        ValueError: If the version is unknown or its argument missing.

    Example:
        >>> f"{predicted_width(1.2e3, version='v1'):.1e} {predicted_width(1.2e3, version='v2', n=60_000):.1e}"
        '3.0e+18 2.0e+24'
    """
    if not kappa >= 1:
        raise ValueError(f"kappa={kappa!r} must be at least 1")
    if version == "v1":
        if not accuracy > 0:
            raise ValueError(f"accuracy={accuracy!r} must be above 0")
        return kappa**6 / accuracy**2
    if version == "v2":
        if n < 2:
            raise ValueError(f"n={n!r} must be at least 2 for version='v2'")
        return kappa**6 * n * math.log(n)
    raise ValueError(f"version={version!r} is not one of 'v1', 'v2'")


@full_float32()
def kernel_condition(kernel: Float[Tensor, "n n"]) -> float:
    """Return the condition number of a symmetric kernel that is *not* a power of another: `eigvalsh` will do.

    Returns:
        The ratio of extreme eigenvalues; infinite where the least is not above rounding.
    """
    values = torch.linalg.eigvalsh(kernel)
    rounding = len(kernel) * torch.finfo(kernel.dtype).eps * float(values[-1])
    return math.inf if float(values[0]) <= rounding else float(values[-1] / values[0])


def _check_rule(rule: str, value: float, least: int) -> None:
    allowed = {
        "rank": (0 <= value < 1, "in [0, 1)"),
        "energy": (0 < value <= 1, "in (0, 1]"),
        "top": (value == int(value) and 1 <= value <= least, f"an integer from 1 to {least}"),
        "ridge": (0 <= value < math.inf, "at least 0"),
    }
    if rule not in allowed:
        raise ValueError(f"rule={rule!r} is not one of {', '.join(map(repr, allowed))}")
    fine, words = allowed[rule]
    if not fine:
        raise ValueError(f"value={value!r} must be {words} for rule={rule!r}")
