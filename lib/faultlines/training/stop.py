"""The end of training at a training loss instead of an epoch, so that runs are compared where they fit alike."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.training.history import History
from faultlines.training.settings import Settings


@torch.no_grad()
def training_loss(model: nn.Module, x: Float[Tensor, "n ..."], y: Int[Tensor, " n"]) -> float:
    """Return the mean cross-entropy over `(x, y)` in evaluation mode; the modes stay as they are.

    Evaluation mode, because it is the network that is measured afterwards: batch normalisation takes its running
    statistics and dropout is off.

    Example:
        >>> round(training_loss(nn.Identity(), torch.zeros(3, 10), torch.tensor([1, 5, 9])), 4)  # log 10
        2.3026
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total = sum(
        F.cross_entropy(model(xb), yb, reduction="sum")
        for xb, yb in zip(x.split(1024), y.split(1024), strict=True)
    )
    for module, training in modes:
        module.training = training
    return float(total) / len(x)


class StopRule:
    """Looks at the training loss when it is time to, and says whether training is over.

    Args:
        settings: `stop_at_loss` and `stop_every`.
        x: The training set, without augmentation.
        y: Its labels.
        per_epoch: Steps an epoch.
    """

    def __init__(self, settings: Settings, x: Tensor, y: Tensor, per_epoch: int) -> None:
        self.loss, self.every = settings.stop_at_loss, settings.stop_every or per_epoch
        self.x, self.y = x, y

    def met(self, model: nn.Module, history: History, steps: int) -> bool:
        """Say whether training is over after `steps` steps; the history gets what was seen."""
        if self.loss is None or steps % self.every:
            return False
        history.training_loss.append(training_loss(model, self.x, self.y))
        history.training_step.append(steps)
        if history.training_loss[-1] > self.loss:
            return False
        history.stopped_at = steps
        return True
