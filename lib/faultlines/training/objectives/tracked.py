"""Cross-entropy, with the lambdas of differential attention among its terms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from faultlines.models.recorder import record
from faultlines.training.objectives.cross_entropy import CrossEntropy
from faultlines.training.objectives.objective import Model


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
