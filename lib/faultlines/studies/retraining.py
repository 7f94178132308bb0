"""Leave-one-out by training again: the truth that influence scores of a network are held against."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.models.two_layer import LinearisedTwoLayer, TwoLayerReLU
from faultlines.training.two_layer import descend


def retrained_influence(
    network: TwoLayerReLU | LinearisedTwoLayer,
    rows: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    test: Float[Tensor, "t d"],
    left_out: Sequence[int],
    *,
    ridge: float,
    tolerance: float = 1e-4,
    max_steps: int = 20_000,
) -> Float[Tensor, "s t"]:
    r"""Return $f(x_t) - f^{-i}(x_t)$, with $f^{-i}$ trained by `descend` from the same initial weights without row $i$.

    The rows are taken as they are: where samples attend to samples, the row that is left out of the training is
    still attended to.

    Args:
        network: Trained by `descend` on all rows with the same settings; not changed.
        rows: Training rows.
        targets: Training targets.
        test: Test rows.
        left_out: Which rows to leave out, one at a time.
        ridge: See `descend`.
        tolerance: See `descend`.
        max_steps: See `descend`.

    Raises:
        ValueError: If a row to leave out is not there.
    """
    if bad := [i for i in left_out if not 0 <= i < len(rows)]:
        raise ValueError(f"left_out holds {bad[:5]}; it must name rows from 0 to {len(rows) - 1}")
    found = []
    with torch.no_grad():
        whole = network(test)
        for i in left_out:
            keep = torch.arange(len(rows), device=rows.device) != i
            again = deepcopy(network)
            again.weight.copy_(again.get_buffer("initial"))
            descend(again, rows[keep], targets[keep], ridge=ridge, tolerance=tolerance, max_steps=max_steps)
            found.append(whole - again(test))
    return torch.stack(found)
