"""Probability vectors to test a bound on: random ones over sizes and temperatures, and the hard cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def random_distributions(
    count: int, size: int, *, generator: torch.Generator, temperatures: tuple[float, float] = (0.03, 30.0)
) -> Float[Tensor, "count size"]:
    r"""Return $\mathrm{softmax}(z / T)$ for Gaussian scores $z$ and log-uniform temperatures $T$.

    Args:
        count: Number of distributions.
        size: Number of outcomes, at least 2.
        generator: Source of randomness.
        temperatures: Lowest and highest temperature; low ones are nearly one-hot, high ones nearly uniform.

    Returns:
        Rows that sum to one, float64.

    Raises:
        ValueError: If a size or a temperature is out of range.
    """
    low, high = temperatures
    if count < 1 or size < 2:
        raise ValueError(f"count={count}, size={size}: need count >= 1 and size >= 2")
    if not 0 < low <= high:
        raise ValueError(f"temperatures={temperatures} must be positive and in order")
    scores = torch.randn(count, size, generator=generator, dtype=torch.float64)
    position = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return (scores / (low * (high / low) ** position)).softmax(dim=-1)


def hard_distributions(size: int) -> dict[str, Float[Tensor, " size"]]:
    """Return the cases that bounds of the softmax Jacobian trip over, by name.

    Args:
        size: Number of outcomes, at least 4.

    Returns:
        One-hot, uniform, two equal outcomes, a leader over an equal tail, two leaders over dust, two
        leaders over an unequal tail (where `softmax_jacobian_bound` is exact again), and the
        near-extremal case of `softmax_jacobian_bound` over `softmax_jacobian_lower`: a leader near one whose
        missing mass is a third in the runner-up and the rest in dust.

    Raises:
        ValueError: If the size is below 4.
    """
    if size < 4:
        raise ValueError(f"size={size} must be at least 4")
    one_hot, uniform, pair = torch.zeros(size), torch.full((size,), 1 / size), torch.zeros(size)
    one_hot[0], pair[:2] = 1.0, 0.5
    leader = torch.full((size,), 0.3 / (size - 1))
    leader[0] = 0.7
    dust = torch.full((size,), 0.02 / (size - 2))
    dust[:2] = 0.49
    tied = torch.full((size,), 0.2 / (size - 2))
    tied[:2] = 0.4
    tied[2], tied[3:] = 0.15, 0.05 / (size - 3)
    extremal = torch.full((size,), 2e-3 / (3 * (size - 2)))
    extremal[0], extremal[1] = 1 - 1e-3, 1e-3 / 3
    cases = {
        "one-hot": one_hot,
        "uniform": uniform,
        "two equal": pair,
        "leader and equal tail": leader,
        "two leaders and dust": dust,
        "two leaders and unequal tail": tied,
        "near-extremal": extremal,
    }
    return {name: case.double() / case.double().sum() for name, case in cases.items()}


def distribution_suite(
    total: int, sizes: Sequence[int], *, generator: torch.Generator
) -> list[Float[Tensor, "count size"]]:
    """Return at least `total` distributions, a tensor a size: random ones with the hard cases on top.

    Args:
        total: Number of random distributions over all sizes.
        sizes: Numbers of outcomes.
        generator: Source of randomness.

    Example:
        >>> suite = distribution_suite(100, (4, 17), generator=torch.Generator().manual_seed(0))
        >>> [tuple(p.shape) for p in suite]
        [(57, 4), (57, 17)]
    """
    each = -(-total // len(sizes))
    suite = []
    for size in sizes:
        rows = [random_distributions(each, size, generator=generator)]
        if size >= 4:
            rows.append(torch.stack(list(hard_distributions(size).values())))
        suite.append(torch.cat(rows))
    return suite
