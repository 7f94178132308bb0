"""What kernel regression is fitted to: signs, centred one-hot rows, principal components."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def signed_targets(y: Int64[Tensor, " n"], dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
    """Return -1 for the smaller and +1 for the larger of two labels.

    Raises:
        ValueError: If there are not exactly two labels.

    Example:
        >>> signed_targets(torch.tensor([3, 8, 3]))
        tensor([-1.,  1., -1.], dtype=torch.float64)
    """
    found = y.unique()
    if len(found) != 2:
        raise ValueError(f"y has the labels {found.tolist()[:12]}; a binary task must have exactly two")
    return torch.where(y == found[1], 1.0, -1.0).to(dtype)


def centred_one_hot(
    y: Int64[Tensor, " n"], classes: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "n k"]:
    r"""Return one-hot rows minus $1/k$.

    Raises:
        ValueError: If a label is outside 0 to `classes - 1`.

    Example:
        >>> centred_one_hot(torch.tensor([1]), 2)
        tensor([[-0.5000,  0.5000]], dtype=torch.float64)
    """
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"y runs from {int(y.min())} to {int(y.max())}; labels must lie in 0 to {classes - 1}"
        )
    return torch.nn.functional.one_hot(y, classes).to(dtype) - 1 / classes


def component_target(
    train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], component: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " t"]]:
    """Return the score on one principal component of the centred training rows, at unit variance.

    Args:
        train: Training rows, which define the component.
        test: Test rows.
        component: 1 for the leading one.

    Raises:
        ValueError: If the training rows have no such component.
    """
    mean = train.mean(dim=0)
    _, s, v = torch.linalg.svd(train - mean, full_matrices=False)
    rank = int((s > 1e-10 * s[0]).sum())
    if not 1 <= component <= rank:
        raise ValueError(f"component={component!r} must lie in 1 to {rank}, the rank of the training rows")
    axis = v[component - 1]
    scores = (train - mean) @ axis
    return scores / scores.std(), ((test - mean) @ axis) / scores.std()
