"""One recorder for every attention mechanism: what a layer computed, without a second code path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LayerRecord:
    """What one attention layer computed in one forward pass; tensors keep their graph.

    Attributes:
        inputs: What entered the layer, after its normalisation, `[batch, token, dim]`.
        q: Queries, `[batch, head, query, head_dim]`.
        k: Keys, `[batch, head, key, head_dim]`.
        v: Values, `[batch, head, key, head_dim]`.
        maps: The attention map that multiplied the values, `[batch, head, query, key]`.
        terms: Further tensors of a mechanism by name (the branches of differential attention, say).
    """

    inputs: Float[Tensor, "batch token dim"]
    q: Float[Tensor, "batch head query head_dim"]
    k: Float[Tensor, "batch head key head_dim"]
    v: Float[Tensor, "batch head key value_dim"]
    maps: Float[Tensor, "batch head query key"]
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Tape:
    """The records of one or more forward passes, in the order in which the layers ran."""

    layers: list[LayerRecord] = field(default_factory=list)

    @property
    def maps(self) -> list[Tensor]:
        """Attention maps, one `[batch, head, query, key]` a layer."""
        return [layer.maps for layer in self.layers]


_tape: ContextVar[Tape | None] = ContextVar("faultlines_tape", default=None)


def current_tape() -> Tape | None:
    """Return the tape that is recording, or None. Attention layers call this."""
    return _tape.get()


@contextmanager
def record() -> Iterator[Tape]:
    """Record every attention layer that runs inside the `with` block.

    Recording asks for the explicit form of attention (a fused kernel has no map to hand out); the output is
    the same up to rounding. It works under `torch.func` too, when tape and forward pass are inside the
    transformed function.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT, record
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=2, heads=2)
        >>> with record() as tape:
        ...     logits = model(torch.rand(3, 1, 8, 8))
        >>> [tuple(p.shape) for p in tape.maps]
        [(3, 2, 5, 5), (3, 2, 5, 5)]
    """
    tape = Tape()
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)
