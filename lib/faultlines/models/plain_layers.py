"""What the plain networks, MLP and CNN, have in common: activations, normalisations, and centred inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Activation = Literal["relu", "softplus", "gelu"]
NormKind = Literal["batch", "layer"]


def check_plain(activation: str, beta: float, norm_kind: str, sizes: dict[str, Sequence[int]]) -> None:
    """Refuse what a plain network cannot be made of.

    Raises:
        ValueError: If a name is unknown, `beta` is not positive, or a size is below 1.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation={activation!r} is not one of {get_args(Activation)}")
    if not beta > 0:
        raise ValueError(f"beta={beta!r} must be positive")
    if norm_kind not in get_args(NormKind):
        raise ValueError(f"norm_kind={norm_kind!r} is not one of {get_args(NormKind)}")
    for name, values in sizes.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}={tuple(values)} must be at least one size, each at least 1")


def make_activation(activation: Activation, beta: float) -> nn.Module:
    r"""Return a ReLU, a GELU, or the softplus $\log(1 + e^{\beta z}) / \beta$, which is ReLU as $\beta \to \infty$."""
    # torch's softplus is linear where beta z is above its threshold, 20: there the second derivative would jump
    return {"relu": nn.ReLU(), "gelu": nn.GELU(), "softplus": nn.Softplus(beta=beta, threshold=40)}[
        activation
    ]


def make_norm(kind: NormKind, channels: int, *, images: bool) -> nn.Module:
    """Return a normalisation of `channels` features; of images, the layer kind takes all of a sample at once."""
    if kind == "batch":
        return nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if images else nn.LayerNorm(channels)


class Centre(nn.Module):
    """`(x - mean) / std` by channel, the first step of a network on images in [0, 1].

    Args:
        shape: Shape of one image, `(channels, height, width)`.
        mean: One number, or one a channel.
        std: One number, or one a channel; positive.

    Raises:
        ValueError: If `mean` or `std` does not fit the channels.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        mean: Sequence[float] | float,
        std: Sequence[float] | float,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        for name, value in (("mean", mean), ("std", std)):
            statistic = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            if len(statistic) not in (1, shape[0]) or (name == "std" and not (statistic > 0).all()):
                raise ValueError(
                    f"{name}={value!r} must be one number or one for each of channels={shape[0]}; std above 0"
                )
            self.register_buffer(name, statistic)

    def forward(self, x: Tensor) -> Tensor:
        """Centre; refuse another shape.

        Raises:
            ValueError: If the images do not have the network's shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"images have shape {tuple(x.shape[1:])}; this model takes {self.shape}")
        return (x - self.mean) / self.std
