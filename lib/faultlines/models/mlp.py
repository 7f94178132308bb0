"""A multi-layer perceptron on images, with normalisation after every hidden layer or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.plain_layers import (
    Activation,
    Centre,
    NormKind,
    check_plain,
    make_activation,
    make_norm,
)


class MLP(nn.Module):
    r"""Linear layers with an activation between; normalisation of the input is the model's own first step.

    A hidden layer is linear, then normalised where `norm="hidden"`, then activated. Weights are named the same
    whatever the activation: `MLP(..., activation="softplus", beta=30).load_state_dict(relu.state_dict())` is the
    smooth twin of a ReLU network, whose second derivatives in the input exist everywhere.

    Args:
        image_shape: `(channels, height, width)` of an image in $[0, 1]$.
        classes: Number of logits.
        widths: Widths of the hidden layers.
        norm: `"none"` or `"hidden"`, after each hidden layer.
        norm_kind: `"batch"` or `"layer"`.
        activation: `"relu"`, `"softplus"` or `"gelu"`.
        beta: Of softplus, $\log(1 + e^{\beta z}) / \beta$.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Attributes:
        first: The first linear layer, which sees the centred, flat image.

    Raises:
        ValueError: If a size is below 1, a name is unknown, or `mean` or `std` does not fit.

    Example:
        >>> import torch
        >>> MLP(image_shape=(1, 8, 8), classes=10, widths=(32, 32), norm="hidden").eval()(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        widths: Sequence[int] = (128, 128),
        norm: Literal["none", "hidden"] = "none",
        norm_kind: NormKind = "batch",
        activation: Activation = "relu",
        beta: float = 1.0,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.5,
    ) -> None:
        super().__init__()
        sizes = {"image_shape": image_shape, "classes": (classes,), "widths": widths}
        check_plain(activation, beta, norm_kind, sizes)
        if norm not in ("none", "hidden"):
            raise ValueError(f"norm={norm!r} is not one of 'none', 'hidden'")
        channels, height, width = image_shape
        self.centre = Centre(image_shape, mean, std)
        self.hidden = nn.ModuleList()
        before = channels * height * width
        for after in widths:
            norms = make_norm(norm_kind, after, images=False) if norm == "hidden" else nn.Identity()
            self.hidden.append(
                nn.Sequential(nn.Linear(before, after), norms, make_activation(activation, beta))
            )
            before = after
        self.head = nn.Linear(before, classes)

    @property
    def first(self) -> nn.Linear:
        """The first linear layer."""
        return self.hidden[0][0]

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        x = self.centre(x).flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)
