"""The common objective: make a classifier predict something else, or one class in particular."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.losses import Loss
from faultlines.attacks.targets import check_logits


class Misclassification:
    """Raise a loss on the logits; reached where the prediction is wrong (targeted: where it is the target).

    Args:
        model: Maps `[batch, *]` to logits `[batch, classes]`.
        y: The true classes; with `targeted`, the classes wanted.
        loss: Per-sample loss that grows away from `y`; descended when targeted.
        targeted: Whether `y` is wanted instead of shunned.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        y: Int64[Tensor, " batch"],
        loss: Loss,
        targeted: bool = False,
    ) -> None:
        self.model, self.y, self.loss, self.targeted = model, y, loss, targeted
        self._checked = False

    def __call__(
        self, z: Float[Tensor, active * dims], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return loss and success at `z`.

        Raises:
            ValueError: If the logits are not `[active, classes]` and finite, or a label has no logit.
        """
        logits, y = self.model(z), self.y[index]
        if not self._checked:  # once: on a GPU each look would wait for the device
            check_logits(logits, y)
            self._checked = True
        loss, predicted = self.value(logits, index), logits.argmax(dim=1)
        # argmax takes NaN for the largest, which must not pass for a success
        finite = logits.isfinite().all(dim=1)
        if self.targeted:
            return -loss, (predicted == y) & finite
        return loss, (predicted != y) & finite

    def value(self, logits: Float[Tensor, "active classes"], index: Tensor) -> Float[Tensor, " active"]:
        """Return the loss of the samples `index`."""
        return self.loss(logits, self.y[index])
