r"""What an attack on predictions ascends: losses that grow as a sample becomes more adversarial, and their goal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(
    logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""Cross-entropy, $-\log \mathrm{softmax}(z)_y$. Its gradient vanishes where the model is certain."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    r"""Logit margin, $\max_{i \ne y} z_i - z_y$ (Carlini & Wagner 2017, $f_6$ without its floor).

    Positive exactly where the sample is misclassified.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor([-2.])
    """
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(dim=1) - logits.gather(1, y[:, None]).squeeze(1)


def dlr(logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    r"""Difference of logits ratio, $-(z_y - \max_{i \ne y} z_i) / (z_{\pi_1} - z_{\pi_3})$.

    $\pi$ sorts the logits downwards. Invariant to shifts and positive factors of the logits (Croce & Hein
    2020, arXiv 2003.01690, eq. 6). Where the three largest logits are equal the value is 0.

    Raises:
        ValueError: If there are fewer than three classes.

    Example:
        >>> dlr(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor([-0.6667])
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"logits have {logits.shape[1]} classes; the dlr loss takes at least 3 (use loss='margin')"
        )
    top = logits.topk(3, dim=1).values
    spread = top[:, 0] - top[:, 2]
    return margin(logits, y) / torch.where(spread > 0, spread, 1)


def targeted_dlr(
    logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"], target: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""Targeted difference of logits ratio, $-(z_y - z_t) / (z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2)$.

    It grows as the target gains on the true class (Croce & Hein 2020, arXiv 2003.01690, eq. 7). Where the four
    largest logits are equal the divisor is 1.

    Args:
        logits: Scores.
        y: The true classes.
        target: The classes to move towards.

    Raises:
        ValueError: If there are fewer than four classes.

    Example:
        >>> targeted_dlr(torch.tensor([[4.0, 2.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([2]))
        tensor([-1.])
    """
    if logits.shape[1] < 4:
        raise ValueError(
            f"logits have {logits.shape[1]} classes; the targeted dlr loss takes at least 4 "
            "(use loss='cross_entropy', or loss='dlr' with 3 classes)"
        )
    top = logits.topk(4, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    gain = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    return gain.squeeze(1) / torch.where(spread > 0, spread, 1)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def as_loss(loss: str | Loss) -> Loss:
    """Return a loss by its name, or the function itself.

    Raises:
        ValueError: If the name is unknown.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is not one of {sorted(LOSSES)}, nor a function of (logits, y)")
    return LOSSES[loss]


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

    def __call__(
        self, z: Float[Tensor, "active ..."], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return loss and success at `z`."""
        logits, y = self.model(z), self.y[index]
        loss, predicted = self.value(logits, index), logits.argmax(dim=1)
        return (-loss, predicted == y) if self.targeted else (loss, predicted != y)

    def value(self, logits: Float[Tensor, "active classes"], index: Tensor) -> Float[Tensor, " active"]:
        """Return the loss of the samples `index`."""
        return self.loss(logits, self.y[index])


def likeliest_others(
    logits: Float[Tensor, "batch classes"], y: Int64[Tensor, " batch"], count: int
) -> Int64[Tensor, "batch count"]:
    """Return the `count` classes of largest logit beside `y`, in falling order; fewer where there are fewer.

    Example:
        >>> likeliest_others(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
        tensor([[2, 1]])
    """
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).topk(min(count, logits.shape[1] - 1), dim=1).indices


def together(done: int, samples: int, batch_size: int) -> int:
    """Return how many targets to try at once after `done` of them.

    The likeliest one goes first and alone, since most samples that fall do so there; of the others as many
    as fit into a batch, since a few samples alone leave a machine idle.

    Example:
        >>> together(0, 10, 256), together(1, 10, 256), together(1, 1000, 256)
        (1, 25, 1)
    """
    return max(batch_size // samples, 1) if done else 1
