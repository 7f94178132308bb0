"""The size of attention scores, a plain control on the strength of the query-key product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from faultlines.models.recorder import record
from faultlines.training.objectives.objective import Model, Objective, check_number


@dataclass(frozen=True)
class ScoreNorm(Objective):
    r"""Cross-entropy plus `coefficient` times the mean squared attention score.

    The scores $Q K^\top / \sqrt d$ are centred over the keys first: softmax does not see a row's mean. It
    bounds what the weights $W_Q W_K^\top$ do on the data, where weight decay bounds them everywhere.

    Args:
        coefficient: Non-negative. The mean is over layers, batch, heads, queries and keys.

    Raises:
        ValueError: If `coefficient` is negative or not finite.
    """

    per_member: ClassVar[tuple[str, ...]] = ("coefficient",)

    coefficient: float | Tensor

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and its terms `cross_entropy` and `score_norm`.

        Raises:
            ValueError: If the model recorded no attention layer.
        """
        with record() as tape:
            loss = F.cross_entropy(model(x), y)
        if not tape.layers:
            raise ValueError("ScoreNorm needs attention layers, and the model recorded none")
        squares = []
        for layer in tape.layers:
            k = layer.k - layer.k.mean(dim=-2, keepdim=True)  # centring the keys centres every row of scores
            scores = layer.q @ k.transpose(-2, -1) / math.sqrt(layer.q.shape[-1])
            squares.append(scores.square().mean())
        penalty = sum(squares) / len(squares)
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "score_norm": penalty}
