"""One recorder for every attention mechanism: what a layer computed, without a second code path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class LayerRecord:
    """What one attention layer computed in one forward pass; tensors keep their graph.

    A layer need not record everything: what it left out is no attribute, and asking for it says so.

    Attributes:
        maps: The attention map that multiplied the values, `[batch, head, query, key]`.
        inputs: What entered the layer, after its normalisation, `[batch, token, dim]`.
        q: Queries, `[batch, head, query, head_dim]`.
        k: Keys, `[batch, head, key, head_dim]`.
        v: Values, `[batch, head, key, head_dim]`.
        terms: Further tensors of a mechanism by name (the branches of differential attention, say).
    """

    maps: Float[Tensor, "batch head query key"]
    inputs: Float[Tensor, "batch token dim"]
    q: Float[Tensor, "batch head query head_dim"]
    k: Float[Tensor, "batch head key head_dim"]
    v: Float[Tensor, "batch head key value_dim"]
    terms: dict[str, Tensor]

    def __init__(
        self,
        *,
        maps: Tensor,
        inputs: Tensor | None = None,
        q: Tensor | None = None,
        k: Tensor | None = None,
        v: Tensor | None = None,
        terms: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.maps, self.terms = maps, dict(terms or {})
        self._version = _version(maps)
        for name, value in {"inputs": inputs, "q": q, "k": k, "v": v}.items():
            if value is not None:
                setattr(self, name, value)

    def check(self) -> None:
        """Refuse a map that was changed in place after it was recorded: it multiplied no values.

        Raises:
            ValueError: If it was.
        """
        if _version(self.maps) != self._version:
            raise ValueError(
                "an attention map was changed in place after it was recorded (dropout with inplace=True, say), so that "
                "the record is not what the layer computed; let the layer change a copy of it"
            )

    def __getattr__(self, name: str) -> Tensor:
        if name in ("inputs", "q", "k", "v"):
            raise AttributeError(
                f"an attention layer recorded no {name}: give it to `record_attention({name}=...)`"
            )
        raise AttributeError(name)


def _version(maps: Tensor) -> int:
    """Return how often a tensor was written to; in inference mode nobody counts."""
    return 0 if maps.is_inference() else maps._version


@dataclass
class Tape:
    """The records of one or more forward passes, in the order in which the layers ran."""

    layers: list[LayerRecord] = field(default_factory=list)

    @property
    def maps(self) -> list[Tensor]:
        """Attention maps, one `[batch, head, query, key]` a layer."""
        return [layer.maps for layer in self.layers]


class _Tape(Tape):
    """A tape that is recording, and how many layers it wants."""

    most: int | None = None


class _EnoughError(Exception):
    """The tape of this exception has all the layers that it wants; the rest of the forward pass is for nothing."""


_tape: ContextVar[_Tape | None] = ContextVar("faultlines_tape", default=None)


def current_tape() -> Tape | None:
    """Return the tape that is recording, or None; a layer asks, where it would otherwise make no map."""
    return _tape.get()


def record_attention(
    maps: Float[Tensor, "batch head query key"],
    *,
    inputs: Float[Tensor, "batch token dim"] | None = None,
    q: Float[Tensor, "batch head query head_dim"] | None = None,
    k: Float[Tensor, "batch head key head_dim"] | None = None,
    v: Float[Tensor, "batch head key value_dim"] | None = None,
    terms: Mapping[str, Tensor] | None = None,
) -> None:
    """Hand what an attention layer computed to the recorder, where one is on; `Attention` calls this.

    An attention module of your own that calls it in its forward pass is seen by all that looks at maps: `record`,
    the objectives (JaSMin needs the maps alone), the estimators.

    Args:
        maps: What multiplied the values.
        inputs: What entered the layer.
        q: Queries.
        k: Keys.
        v: Values.
        terms: Further tensors by name.

    Raises:
        ValueError: If `maps` does not have four axes.

    Example:
        >>> import torch
        >>> class Mine(torch.nn.Module):
        ...     def forward(self, x):
        ...         maps = (x @ x.mT).softmax(-1)[:, None]  # one head
        ...         record_attention(maps)
        ...         return (maps @ x[:, None])[:, 0]
        >>> with record() as tape:
        ...     out = Mine()(torch.rand(2, 5, 3))
        >>> tape.maps[0].shape
        torch.Size([2, 1, 5, 5])
    """
    tape = _tape.get()
    if tape is None:
        return
    if maps.ndim != 4:
        raise ValueError(f"maps has shape {tuple(maps.shape)}; [batch, head, query, key] is needed")
    tape.layers.append(LayerRecord(maps=maps, inputs=inputs, q=q, k=k, v=v, terms=terms))
    if len(tape.layers) == tape.most:
        raise _EnoughError(tape)


@contextmanager
def record(layers: int | None = None) -> Iterator[Tape]:
    """Record every attention layer that runs inside the `with` block.

    Recording asks for the explicit form of attention (a fused kernel has no map to hand out); the output is
    the same up to rounding. It works under `torch.func` too, when tape and forward pass are inside the
    transformed function.

    Args:
        layers: After so many layers the block is left, in the middle of the forward pass: what comes after them would
            be computed for nothing. By default it runs to its end.

    Raises:
        ValueError: At the end of the block, if a layer changed a map in place after it had recorded it.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT, record
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=2, heads=2)
        >>> with record() as tape:
        ...     logits = model(torch.rand(3, 1, 8, 8))
        >>> [tuple(p.shape) for p in tape.maps]
        [(3, 2, 5, 5), (3, 2, 5, 5)]
    """
    tape = _Tape()
    tape.most = layers
    token = _tape.set(tape)
    try:
        yield tape
    except _EnoughError as enough:
        if enough.args[0] is not tape:
            raise
    finally:
        _tape.reset(token)
    for layer in tape.layers:
        layer.check()


@contextmanager
def recording_torch_layers(model: object) -> Iterator[None]:
    """Make the `torch.nn.MultiheadAttention` layers of a model hand their maps to the recorder, inside the block.

    They are asked for their weights, one map a head, whatever the model asks for; the model gets what it asked for.
    So torchvision's `vit_b_16` has maps, say. Without effect on what is no module, and on layers of other kinds.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
        >>> with recording_torch_layers(layer), record() as tape:
        ...     out = layer(torch.rand(3, 5, 8))
        >>> tape.maps[0].shape
        torch.Size([3, 2, 5, 5])
    """
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
    asked: list[dict[str, Any]] = []

    def ask(layer: nn.Module, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = dict(zip(names, given, strict=False)) | named
        asked.append(named)
        return (), named | {"need_weights": True, "average_attn_weights": False}

    def hand_on(layer: nn.Module, given: tuple, named: dict[str, Any], found: tuple) -> tuple:
        out, maps = found
        named = asked.pop()
        record_attention(maps if maps.ndim == 4 else maps[None])
        if not named.get("need_weights", True):
            return out, None
        return out, maps.mean(dim=-3) if named.get("average_attn_weights", True) else maps

    layers = (
        [m for m in model.modules() if type(m) is nn.MultiheadAttention]
        if isinstance(model, nn.Module)
        else []
    )
    hooks = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(hand_on, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
