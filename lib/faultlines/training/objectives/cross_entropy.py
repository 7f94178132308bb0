"""Cross-entropy, the baseline, plain or with what attention layers tell of themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from faultlines.models.recorder import record
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


@dataclass(frozen=True)
class TrackLambda(CrossEntropy):
    r"""Cross-entropy, whose terms also hold $\lambda$ of every layer that has one.

    The terms are `lambda 0`, `lambda 1`, ... by layer, so that a `History` holds the mean over each epoch. Layers
    without branches add none, and two mechanisms can be trained under one objective.

    Args:
        label_smoothing: Of the cross-entropy.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)
        >>> model = ViT(**sizes, attention="differential")
        >>> loss, terms = TrackLambda()(model, torch.rand(5, 1, 4, 4), torch.zeros(5).long())
        >>> sorted(terms)
        ['cross_entropy', 'lambda 0', 'lambda 1']
    """

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms with the lambdas."""
        with record() as tape:
            loss, terms = super().__call__(model, x, y)
        found = {
            f"lambda {index}": layer.terms["lambda"].detach()
            for index, layer in enumerate(tape.layers)
            if "lambda" in layer.terms
        }
        return loss, {**terms, **found}
