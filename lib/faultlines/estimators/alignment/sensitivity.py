r"""The identities of arXiv 2510.00517 for the gradient of $A_1 - \lambda A_2$.

They were read in summaries of the paper and are proved by expanding one square. All take floats or tensors
that broadcast, and return a tensor; floats are taken in double precision.
"""

from __future__ import annotations

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
