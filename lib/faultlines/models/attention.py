"""Multi-head attention with the mechanism as a plug."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from faultlines.models.recorder import LayerRecord, current_tape

Fused = Literal["auto", "always", "never"]


class Mechanism(Protocol):
    """What turns queries, keys and values into an output and a map; an `nn.Module` in practice."""

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Float[Tensor, "batch head query value_dim"], Float[Tensor, "batch head query key"], dict]:
        """Return the output, the map that multiplied the values, and any further terms by name."""
        ...

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch head query value_dim"]:
        """Return the same output from a fused kernel, without a map and without second derivatives."""
        ...


class SoftmaxMechanism(nn.Module):
    r"""Scaled dot-product attention, $\mathrm{softmax}(Q K^\top / \sqrt{d} + B)\, V$ (Vaswani et al. 2017, eq. 1).

    The scale is that of one head, $d$ = `head_dim`, and not that of the model.

    Args:
        bias: What is added to the scores, `[query, key]` or with leading head and batch axes; none by default.
    """

    def __init__(self, bias: Float[Tensor, "... query key"] | None = None) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def explicit(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict]:
        """Return `(output, map, {})`; every derivative exists."""
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [batch, head, query, key]
        maps = (scores if self.bias is None else scores + self.bias).softmax(dim=-1)
        return maps @ v, maps, {}

    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of torch's fused kernel, which has no second derivative."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)


class Attention(nn.Module):
    """Multi-head self-attention over tokens, for any mechanism.

    Args:
        dim: Width of a token.
        heads: Number of heads; must divide `dim`.
        mechanism: What combines queries, keys and values; softmax by default.
        qkv_bias: Whether the three input projections have a bias. Theorem 3 of arXiv 2507.07814 assumes none.
        fused: `"auto"` takes the fused kernel only where no gradient and no map is asked for, since it has no
            second derivative; `"always"` also under autograd (faster first-order training); `"never"` at all.

    Raises:
        ValueError: If `heads` does not divide `dim`, or `fused` is none of the three.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mechanism: Mechanism | None = None,
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
        self.mechanism = SoftmaxMechanism() if mechanism is None else mechanism
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.out = nn.Linear(dim, dim)

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
        """
        q, k, v = self.project(x, queries)
        tape = current_tape()
        if tape is None and self._may_fuse():
            heads = self.mechanism.fused(q, k, v)
        else:
            heads, maps, terms = self.mechanism.explicit(q, k, v)
            if tape is not None:
                tape.layers.append(LayerRecord(inputs=x, q=q, k=k, v=v, maps=maps, terms=terms))
        return self.out(heads.transpose(1, 2).flatten(2))

    def _may_fuse(self) -> bool:
        if self.fused == "auto":
            # forward-mode derivatives and vmap are on even under no_grad
            return (
                not torch.is_grad_enabled()
                and forward_ad._current_level < 0
                and not torch._C._functorch.peek_interpreter_stack()
            )
        return self.fused == "always"
