"""Cross-entropy, the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from faultlines.training.objectives.objective import Model, Objective, check_number


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Mean cross-entropy over the batch.

    Args:
        label_smoothing: Mass taken from the label and spread over all classes, in [0, 1].

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Example:
        >>> import torch
        >>> loss, _ = CrossEntropy()(lambda x: x, torch.zeros(3, 10), torch.tensor([1, 5, 9]))
        >>> round(loss.item(), 4)  # log 10
        2.3026
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, low=0, high=1)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; it is its own only term."""
        loss = F.cross_entropy(model(x), y, label_smoothing=self.label_smoothing)
        return loss, {"cross_entropy": loss}
