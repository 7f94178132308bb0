"""Attention mechanisms by name, put into a stack of blocks that is drawn already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.attention import Attention, Mechanism, SoftmaxMechanism
from faultlines.models.differential import DifferentialAttention
from faultlines.models.kernel_attention import LinearAttention, RBFAttention, SigmoidAttention


def _softmax(heads: int, head_dim: int, *, layer: int, bias: Tensor | None = None) -> SoftmaxMechanism:
    return SoftmaxMechanism(bias)


MECHANISMS: dict[str, Callable[..., Mechanism]] = {
    "softmax": _softmax,
    "differential": DifferentialAttention,
    "rbf": RBFAttention,
    "linear": LinearAttention,
    "sigmoid": SigmoidAttention,
}


def check_mechanism(attention: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: If `attention` is none of `MECHANISMS`.
    """
    if attention not in MECHANISMS:
        raise ValueError(f"attention={attention!r} is not one of {sorted(MECHANISMS)}")


def plug(
    blocks: Iterable[nn.Module],
    attention: str,
    options: Mapping[str, Any] | None = None,
    bias: Float[Tensor, "query key"] | None = None,
) -> None:
    """Give the attention layer of every block a mechanism of its own.

    To be called after everything else is drawn: a mechanism may draw parameters, and drawn last they leave all
    others as they are under the same seed, whatever the mechanism.

    Args:
        blocks: Blocks with an `Attention` layer `attention`.
        attention: One of `MECHANISMS`.
        options: Keyword arguments of the mechanism, the same for every layer; see `DifferentialAttention`,
            `RBFAttention`, `LinearAttention` and `SigmoidAttention`.
        bias: What is added to the scores; see the mechanism.

    Raises:
        ValueError: If the name is unknown, or the mechanism does not take the options or their values.
    """
    check_mechanism(attention)
    for layer, block in enumerate(blocks):
        owner: Attention = block.attention
        sizes = (owner.heads, owner.qkv.in_features // owner.heads)
        try:
            owner.mechanism = MECHANISMS[attention](*sizes, layer=layer, bias=bias, **dict(options or {}))
        except TypeError as error:
            raise ValueError(
                f"attention_options={dict(options or {})!r} do not fit attention={attention!r}: {error}"
            ) from error
