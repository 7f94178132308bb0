"""Multi-head attention with the mechanism as a plug."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.nn import functional as F

from faultlines.models.pixel_normalization import check_tensor
from faultlines.models.recorder import current_tape, record_attention

Fused = Literal["auto", "always", "never"]


class Mechanism(Protocol):
    """What turns queries, keys and values into an output and a map; an `nn.Module` in practice."""

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[
        Float[Tensor, "batch head query value_dim"], Float[Tensor, "batch head query key"] | None, dict
    ]:
        """Return the output, the map that multiplied the values, and any further terms by name."""
        ...

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch head query value_dim"]:
        """Return the same output from a fused kernel, without a map and without second derivatives."""
        ...

    # A mechanism that needs more than q, k and v has a method `from_tokens(layer, x, q, k, v)` too, with the tokens
    # `x` that ask. What it returns is what `explicit` and `fused` are called on in place of (q, k, v).


class MapMechanism(nn.Module):
    r"""Base of the mechanisms whose map is a function of queries and keys; a subclass gives `weights`.

    Called on `(q, k, v)` it returns the output. Half precision is raised to float32 for the map, whose exponents
    it would not hold.

    Args:
        bias: What is added to the scores, `[query, key]` or with leading head and batch axes; $-\infty$ closes a key
            to a query. A query with no open key gets a map of zeros. None by default.
        persistent: Whether the bias belongs to the state dict.
    """

    per_query = False
    """Whether a row of the map depends on its own query alone, so that some queries can be left out."""

    bias: Tensor | None

    def __init__(
        self, bias: Float[Tensor, "... query key"] | None = None, *, persistent: bool = True
    ) -> None:
        super().__init__()
        self.register_buffer("bias", bias, persistent=persistent)

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        raise NotImplementedError

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `(output, map, {})`; every derivative exists."""
        maps = self.weights(at_least_float(q), at_least_float(k)).to(v.dtype)
        return maps @ v, maps, {}

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output, from a fused kernel where torch has one for this map."""
        return self.explicit(q, k, v)[0]

    def forward(
        self,
        q: Float[Tensor, "batch head query head_dim"],
        k: Float[Tensor, "batch head key head_dim"],
        v: Float[Tensor, "batch head key value_dim"],
    ) -> Float[Tensor, "batch head query value_dim"]:
        """Return the output of the explicit form."""
        return self.explicit(q, k, v)[0]


class SoftmaxMechanism(MapMechanism):
    r"""Scaled dot-product attention, $\mathrm{softmax}(Q K^\top / \sqrt{d} + B)\, V$ (Vaswani et al. 2017, eq. 1).

    The scale is that of one head, $d$ = `head_dim`, and not that of the model.

    Args:
        bias: What is added to the scores; see `MapMechanism`.
    """

    per_query = True

    def weights(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head query key"]:
        """Return the map."""
        return masked_softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), self.bias)

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of torch's fused kernel, which has no second derivative."""
        return fused_softmax(q, k, v, self.bias)


class CallableMechanism(nn.Module):
    """Anything that can be called on `(q, k, v)`, as a mechanism.

    Args:
        call: Returns the output, `[batch, head, query, value_dim]`, or the output and its map; without a map the
            recorder gets nothing from the layer.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Return the output and the map or None."""
        found = self.call(q, k, v)
        output, maps = found if isinstance(found, tuple) else (found, None)
        return output, maps, {}

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output."""
        return self.explicit(q, k, v)[0]


def as_module(made: object) -> nn.Module:
    """Return a module as it is, and a function of `(q, k, v)` as one.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(made, nn.Module):
        return made
    if callable(made) and not isinstance(made, type):
        return CallableMechanism(made)
    raise ValueError(
        f"{made!r} is no mechanism: a module with `explicit` and `fused`, or what is called on (q, k, v), is one"
    )


class Attention(nn.Module):
    """Multi-head self-attention over tokens, for any mechanism.

    Args:
        dim: Width of a token.
        heads: Number of heads; must divide `dim`.
        mechanism: What combines queries, keys and values; softmax by default. A `Mechanism`, the name of one (see
            `ViT`), or any module or function that takes `(q, k, v)` and returns the output, or the output and its
            map.
        qkv_bias: Whether the three input projections have a bias. Theorem 3 of arXiv 2507.07814 assumes none.
        fused: `"auto"` takes the fused kernel only where no gradient and no map is asked for, since it has no
            second derivative; `"always"` also under autograd (faster first-order training); `"never"` at all.

    Raises:
        ValueError: If `heads` does not divide `dim`, `fused` is none of the three, or the mechanism is none.
    """

    mechanism: nn.Module

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mechanism: Mechanism | Callable[..., Any] | str | None = None,
        qkv_bias: bool = True,
        fused: Fused = "auto",
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads={heads} must be a positive divisor of dim={dim}")
        if fused not in ("auto", "always", "never"):
            raise ValueError(f"fused={fused!r} is not one of 'auto', 'always', 'never'")
        self.heads = heads
        self.fused = fused
        plain = mechanism is None or isinstance(mechanism, str)
        self.mechanism = SoftmaxMechanism() if plain else as_module(mechanism)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.out = nn.Linear(dim, dim)
        if isinstance(mechanism, str):  # last: what it draws leaves the rest as it is
            from faultlines.models.transformer_blocks import named_mechanism  # which imports this module

            self.mechanism = named_mechanism(mechanism, heads, dim // heads)

    def project(
        self, x: Float[Tensor, "batch token dim"], queries: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each `[batch, head, token, head_dim]`."""
        if queries is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return q, k, v
        sizes, bias = [x.shape[-1], 2 * x.shape[-1]], self.qkv.bias
        of_q, of_kv = self.qkv.weight.split(sizes)
        bias_q, bias_kv = (None, None) if bias is None else bias.split(sizes)
        q = F.linear(x[:, :queries], of_q, bias_q).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = F.linear(x, of_kv, bias_kv).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(
        self, x: Float[Tensor, "batch token dim"], queries: int | None = None
    ) -> Float[Tensor, "batch query dim"]:
        """Attend; what was computed goes to the recorder when one is on.

        Args:
            x: Tokens.
            queries: Only the first so many tokens ask, and come out; all of them by default. Not for a mechanism
                with a bias, which is made for all.

        Raises:
            ValueError: If `x` is no tensor.
        """
        q, k, v = self.project(check_tensor(x, "x"), queries)
        mechanism = cast(
            Mechanism,
            self.mechanism if hasattr(self.mechanism, "explicit") else CallableMechanism(self.mechanism),
        )
        given: tuple[Tensor, ...] = (q, k, v)
        if (from_tokens := getattr(mechanism, "from_tokens", None)) is not None:
            given = from_tokens(self, x if queries is None else x[:, :queries], q, k, v)
            q, k, v = given[:3]
        if current_tape() is None and self._may_fuse():
            heads = mechanism.fused(*given)
        else:
            heads, maps, terms = mechanism.explicit(*given)
            if maps is not None:
                record_attention(maps, inputs=x, q=q, k=k, v=v, terms=terms)
        return self.out(heads.transpose(1, 2).flatten(2))

    def any_queries(self) -> bool:
        """Return whether some queries can be left out without changing what the others get."""
        return getattr(self.mechanism, "per_query", False) and getattr(self.mechanism, "bias", None) is None

    def _may_fuse(self) -> bool:
        if self.fused == "auto":
            # forward-mode derivatives and vmap are on even under no_grad
            return (
                not torch.is_grad_enabled() and forward_ad._current_level < 0 and not peek_interpreter_stack()
            )
        return self.fused == "always"


def masked_softmax(
    scores: Float[Tensor, "batch head query key"], bias: Float[Tensor, "... query key"] | None
) -> Float[Tensor, "batch head query key"]:
    """Return the softmax of scores with a bias; zeros, with gradients of zero, in a row whose keys are all closed."""
    if bias is None:
        return scores.softmax(dim=-1)
    bias, closed = open_rows(bias)
    return (scores + bias).softmax(dim=-1).masked_fill(closed, 0)


def fused_softmax(
    q: Tensor, k: Tensor, v: Tensor, bias: Float[Tensor, "... query key"] | None, scale: float | None = None
) -> Float[Tensor, "batch head query value_dim"]:
    """Return softmax attention from torch's fused kernel; zeros in a row whose keys are all closed."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    bias, closed = open_rows(bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).masked_fill(closed, 0)


def open_rows(
    bias: Float[Tensor, "... query key"],
) -> tuple[Float[Tensor, "... query key"], Tensor]:
    """Return the bias with 0 in the rows whose keys are all closed, and where these are, `[..., query, 1]`.

    Example:
        >>> open_rows(torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]]))
        (tensor([[0., -inf],
                [0., 0.]]), tensor([[False],
                [ True]]))
    """
    closed = (bias == -math.inf).all(dim=-1, keepdim=True)
    return bias.masked_fill(closed, 0), closed


def at_least_float(x: Tensor) -> Tensor:
    """Return half precision as float32 and anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
