r"""The identities of arXiv 2510.00517 for the gradient of $A_1 - \lambda A_2$.

They were read in summaries of the paper and are proved by expanding one square. All take floats or tensors
that broadcast, and return a tensor; floats are taken in double precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def combined_norm(
    norm1: float | Tensor, norm2: float | Tensor, cosine: float | Tensor, lam: float | Tensor
) -> Tensor:
    r"""Return $\lVert \nabla A_1 - \lambda \nabla A_2 \rVert$ from lengths and angle (Lemma 1, law of cosines).

    Exact with the Frobenius norm and inner product and $\lambda$ that does not depend on the input. Theorem 1 is
    its two ends: $|1 - \lambda\rho|\, \lVert\nabla A_1\rVert$ at $\cos\theta = 1$ and $|1 + \lambda\rho|\,
    \lVert\nabla A_1\rVert$ at $-1$.

    Example:
        >>> combined_norm(3.0, 4.0, 0.0, 1.0)
        tensor(5., dtype=torch.float64)
    """
    norm1, norm2, cosine, lam = (_tensor(value) for value in (norm1, norm2, cosine, lam))
    square = norm1.square() + (lam * norm2).square() - 2 * lam * norm1 * norm2 * cosine
    return square.clamp_min(0).sqrt()


def sensitivity_ratio(gamma: float | Tensor, lambda_rho: float | Tensor, cosine: float | Tensor) -> Tensor:
    r"""Return $\gamma \sqrt{1 + (\lambda\rho)^2 - 2 \lambda\rho \cos\theta}$ (Theorem 2).

    It is $\lVert \nabla A_\mathrm{DA} \rVert / \lVert \nabla A_\mathrm{base} \rVert$ for
    $\gamma = \lVert \nabla A_1 \rVert / \lVert \nabla A_\mathrm{base} \rVert$.

    Args:
        gamma: $\gamma$, positive.
        lambda_rho: $\lambda\rho$.
        cosine: $\cos\theta$, in [-1, 1].

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> sensitivity_ratio(1.0, 0.8, -1.0)
        tensor(1.8000, dtype=torch.float64)
    """
    gamma, lambda_rho, cosine = _tensor(gamma), _tensor(lambda_rho), _tensor(cosine)
    _check("gamma", gamma, gamma > 0, "positive")
    # a computed cosine may pass one by rounding
    _check("cosine", cosine, cosine.abs() <= 1 + 1e-4, "in [-1, 1]")
    return gamma * combined_norm(torch.ones_like(gamma), lambda_rho, cosine, 1.0)


def sensitivity_threshold(gamma: float | Tensor, lambda_rho: float | Tensor) -> Tensor:
    r"""Return $(1 + (\lambda\rho)^2 - \gamma^{-2}) / (2 \lambda\rho)$ (Theorem 3).

    Differential attention is strictly more sensitive than the baseline if and only if $\cos\theta$ is below it.
    A negative cosine is neither necessary (at $\gamma = 1$ the threshold is $\lambda\rho / 2 > 0$) nor sufficient
    (below $\gamma = 1 / (1 + \lambda\rho)$ the threshold is below -1).

    Args:
        gamma: $\gamma$, positive.
        lambda_rho: $\lambda\rho$, positive.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> sensitivity_threshold(1.0, 0.8)
        tensor(0.4000, dtype=torch.float64)
    """
    gamma, lambda_rho = _tensor(gamma), _tensor(lambda_rho)
    _check("gamma", gamma, gamma > 0, "positive")
    _check("lambda_rho", lambda_rho, lambda_rho > 0, "positive")
    return (1 + lambda_rho.square() - gamma**-2) / (2 * lambda_rho)


def sensitivity_terms(lambda_rho: float | Tensor, cosine: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""Split $\lVert \nabla A_\mathrm{DA} \rVert^2 / \lVert \nabla A_1 \rVert^2 - 1$ into its two terms.

    Returns:
        $(\lambda\rho)^2$, what a second branch adds whatever its direction, and $-2\lambda\rho\cos\theta$, what
        opposition adds.

    Example:
        >>> [round(term.item(), 3) for term in sensitivity_terms(0.8, -0.1)]
        [0.64, 0.16]
    """
    lambda_rho, cosine = _tensor(lambda_rho), _tensor(cosine)
    return lambda_rho.square(), -2 * lambda_rho * cosine


def _tensor(value: float | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _check(name: str, value: Tensor, fine: Tensor, allowed: str) -> None:
    if not bool(fine.all()):
        raise ValueError(f"{name}={value[~fine].flatten()[0].item()!r} must be {allowed}")


def depth_threshold(*, c_da: float, c_base: float, l_da: float, l_base: float, alpha: float) -> float:
    r"""Return the depth $D^*$ from which on the bound for differential attention is the smaller one.

    It is that of $C_\mathrm{DA} (\bar\alpha \bar L_\mathrm{DA})^D$ and $C_\mathrm{base} \bar L_\mathrm{base}^D$.

    **Ours, not the paper's.** Corollary 1 of arXiv 2510.00517 speaks of a $D^*$ for the bounds
    $(\bar\alpha \bar L_\mathrm{DA})^D$ and $\bar L_\mathrm{base}^D$ alone, but two pure powers never cross at
    $D > 0$: $a^D < b^D$ if and only if $a < b$. A crossing needs prefactors that do not depend on depth,

    $$D^* = \frac{\ln(C_\mathrm{DA} / C_\mathrm{base})}{\ln(\bar L_\mathrm{base} / (\bar\alpha \bar
    L_\mathrm{DA}))}.$$

    Both sides are upper bounds, so it is no statement about the networks.

    Args:
        c_da: Prefactor of differential attention, positive.
        c_base: Prefactor of standard attention, positive.
        l_da: Lipschitz constant a layer of differential attention, positive.
        l_base: That of standard attention, positive.
        alpha: Cancellation factor, positive.

    Returns:
        $D^*$; 0 for equal prefactors, negative where the bound is smaller at every depth, and infinity where it
        never stays below.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> depth_threshold(c_da=4.0, c_base=1.0, l_da=2.0, l_base=2.0, alpha=0.5)
        2.0
        >>> depth_threshold(c_da=1.0, c_base=1.0, l_da=2.0, l_base=2.0, alpha=0.5)
        0.0
    """
    values = {"c_da": c_da, "c_base": c_base, "l_da": l_da, "l_base": l_base, "alpha": alpha}
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be positive and finite")
    shrinks = math.log(l_base) - math.log(alpha) - math.log(l_da)
    ahead = math.log(c_da) - math.log(c_base)
    if shrinks > 0:
        return ahead / shrinks
    return -math.inf if shrinks == 0 and ahead < 0 else math.inf
