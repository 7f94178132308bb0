"""Pre-norm transformer blocks, stacks of them, and the attention mechanisms that are put into a stack by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.attention import Attention, Fused, SoftmaxMechanism, as_module
from faultlines.models.differential import DifferentialAttention
from faultlines.models.kernel_attention import LinearAttention, RBFAttention, SigmoidAttention

Activation = Literal["gelu", "quick_gelu"]
AttentionChoice = str | nn.Module | Callable[..., Any]


class QuickGELU(nn.Module):
    r"""$x\, \sigma(1.702\, x)$, the approximation that OpenAI's CLIP was trained with."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply it."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm transformer block, `x + attention(norm(x))` then `x + mlp(norm(x))`.

    Args:
        dim: Width of a token.
        attention: The attention layer. Another module that maps tokens to tokens can be put in its place later.
        mlp_ratio: Hidden width of the MLP over `dim`; where that is below 1, there is no MLP.
        activation: Of the MLP, `"gelu"` or `"quick_gelu"`.
        norm_eps: Epsilon of the normalisations.
    """

    attention: Attention

    def __init__(
        self,
        dim: int,
        attention: Attention,
        mlp_ratio: float,
        *,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps) if hidden else nn.Identity()
        act = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), act, nn.Linear(hidden, dim)) if hidden else None

    def forward(
        self, x: Float[Tensor, "batch token dim"], queries: int | None = None
    ) -> Float[Tensor, "batch query dim"]:
        """Apply the block; only the first `queries` tokens come out, or all."""
        if queries is None:
            x = x + self.attention(self.norm1(x))
        else:
            x = x[:, :queries] + self.attention(self.norm1(x), queries)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))


class BlockStack(nn.Sequential):
    """Blocks one after another; an `nn.Sequential` that knows what it holds."""

    @overload
    def __getitem__(self, idx: slice) -> BlockStack: ...
    @overload
    def __getitem__(self, idx: int) -> Block: ...
    def __getitem__(self, idx: Any) -> Any:
        """Return a block, or the stack of a slice."""
        return super().__getitem__(idx)

    def __iter__(self) -> Iterator[Block]:
        """Iterate over the blocks."""
        return cast(Iterator[Block], super().__iter__())


def block_stack(
    dim: int,
    depth: int,
    heads: int,
    *,
    mlp_ratio: float,
    activation: Activation = "gelu",
    norm_eps: float = 1e-5,
    qkv_bias: bool = True,
    fused: Fused = "auto",
) -> BlockStack:
    """Return blocks with softmax attention, into which `plug` puts another mechanism.

    Raises:
        ValueError: If a size is below 1, `heads` does not divide `dim`, `mlp_ratio` is negative, or a name is
            unknown.
    """
    for name, size in {"dim": dim, "depth": depth}.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    if mlp_ratio < 0:
        raise ValueError(f"mlp_ratio={mlp_ratio} must be at least 0")
    if activation not in ("gelu", "quick_gelu"):
        raise ValueError(f"activation={activation!r} is not one of 'gelu', 'quick_gelu'")
    return BlockStack(
        *(
            Block(
                dim,
                Attention(dim, heads, qkv_bias=qkv_bias, fused=fused),
                mlp_ratio,
                activation=activation,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
    )


def _softmax(heads: int, head_dim: int, *, layer: int, bias: Tensor | None = None) -> SoftmaxMechanism:
    return SoftmaxMechanism(bias)


def _from_zoo(name: str) -> Callable[..., nn.Module]:
    def make(
        heads: int, head_dim: int, *, layer: int = 0, bias: Tensor | None = None, **options: Any
    ) -> nn.Module:
        from faultlines.models.mechanism_zoo import ZOO  # only for who asks: others need not load it

        return ZOO[name](heads, head_dim, bias=bias, **options)

    return make


ZOO_NAMES = (
    "l2",
    "cosine",
    "lipsformer",
    "sparsemax",
    "entmax",
    "relu",
    "off by one",
    "gated",
    "differential v2",
)
MECHANISMS: dict[str, Callable[..., Any]] = {
    "softmax": _softmax,
    "differential": DifferentialAttention,
    "rbf": RBFAttention,
    "linear": LinearAttention,
    "sigmoid": SigmoidAttention,
    **{name: _from_zoo(name) for name in ZOO_NAMES},
}


def named_mechanism(name: str, heads: int, head_dim: int) -> nn.Module:
    """Return the mechanism of that name for a layer, at its defaults.

    Raises:
        ValueError: If there is none of that name, or it does not fit the sizes.
    """
    check_mechanism(name)
    return MECHANISMS[name](heads, head_dim, layer=0)


def check_mechanism(attention: AttentionChoice) -> None:
    """Refuse what names no mechanism and makes none.

    Raises:
        ValueError: If `attention` is none of `MECHANISMS`, no module and no factory.
    """
    known = attention in MECHANISMS if isinstance(attention, str) else callable(attention)
    if not known:
        raise ValueError(
            f"attention={attention!r} is not one of {sorted(MECHANISMS)}, no module and no factory"
        )


def plug(
    blocks: BlockStack,
    attention: AttentionChoice,
    options: Mapping[str, Any] | None = None,
    bias: Float[Tensor, "query key"] | None = None,
) -> None:
    """Give the attention layer of every block a mechanism of its own.

    To be called after everything else is drawn: a mechanism may draw parameters, and drawn last they leave all
    others as they are under the same seed, whatever the mechanism.

    Args:
        blocks: Blocks with an `Attention` layer `attention`.
        attention: One of `MECHANISMS`; or a factory, called as `factory(heads, head_dim, layer=..., bias=...,
            **options)` with of `layer` and `bias` what it takes; or a module, of which every layer gets a copy.
            Made or given, it is a `Mechanism`, or is called on `(q, k, v)` and returns the output, or the output
            and its map.
        options: Keyword arguments of the mechanism, the same for every layer; see `DifferentialAttention`,
            `RBFAttention`, `LinearAttention` and `SigmoidAttention`.
        bias: What is added to the scores; see the mechanism.

    Raises:
        ValueError: If the name is unknown, or the mechanism does not take the options or their values.
    """
    check_mechanism(attention)
    given = dict(options or {})
    if isinstance(attention, nn.Module):
        if given or bias is not None:
            raise ValueError(
                "attention is a module, which takes neither attention_options nor a bias: give a factory"
            )
        for block in blocks:
            block.attention.mechanism = copy.deepcopy(attention)
        return
    factory = MECHANISMS[attention] if isinstance(attention, str) else attention
    name = attention if isinstance(attention, str) else getattr(attention, "__name__", repr(attention))
    for layer, block in enumerate(blocks):
        owner = block.attention
        sizes = (owner.heads, owner.qkv.in_features // owner.heads)
        try:
            made = factory(*sizes, **_taken(factory, {"layer": layer, "bias": bias}), **given)
        except TypeError as error:
            raise ValueError(f"attention_options={given!r} do not fit attention={name!r}: {error}") from error
        owner.mechanism = as_module(made)


def _taken(factory: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return what a factory has a parameter for, and what it would be wrong to leave out."""
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return offered
    needed = {"bias"} if offered["bias"] is not None else set()
    return {name: value for name, value in offered.items() if name in parameters or name in needed}
