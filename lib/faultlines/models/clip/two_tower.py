"""Two towers and the temperature between them (CLIP: Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.clip.towers import ImageTower, TextTower
from faultlines.models.transformer_blocks import AttentionChoice, plug

Tower = Literal["image", "text"]

MAX_LOG_SCALE = math.log(100)  # as in the paper: keeps training stable


class CLIP(nn.Module):
    """An image and a text tower that share an embedding, and a learned temperature.

    Mechanisms are plugged in after both towers are drawn, so that under one seed a CLIP and a DiffCLIP share all
    weights that both have.

    Args:
        image: The image tower.
        text: The text tower, of the same `embed_dim`.
        attention: Any that `ViT` takes; of a factory for the text tower, one that takes a bias.
        attention_options: What the mechanism is made with; see `DifferentialAttention`.
        towers: Where `attention` goes; the other tower keeps softmax (DiffCLIP's dagger variant: image only).

    Raises:
        ValueError: If the towers' embeddings differ in width, or a name is unknown.

    Example:
        >>> sizes = dict(embed_dim=6, dim=8, depth=1, heads=2)
        >>> image, text = ImageTower(image_size=8, patch_size=4, **sizes), TextTower(vocabulary=9, context=4, **sizes)
        >>> model = CLIP(image, text, attention="differential")
        >>> model(torch.rand(2, 3, 8, 8), torch.tensor([[1, 8, 0, 0], [1, 2, 3, 8], [1, 2, 8, 0]])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        *,
        attention: AttentionChoice = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        towers: Sequence[Tower] = ("image", "text"),
    ) -> None:
        super().__init__()
        widths = image.projection.out_features, text.projection.out_features
        if widths[0] != widths[1]:
            raise ValueError(f"image embeds in {widths[0]} dimensions, text in {widths[1]}; they must agree")
        if unknown := set(towers) - {"image", "text"}:
            raise ValueError(f"towers={tuple(towers)!r}: {unknown.pop()!r} is not one of 'image', 'text'")
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if "image" in towers:
            plug(image.blocks, attention, attention_options)
        if "text" in towers:
            plug(text.blocks, attention, attention_options, bias=text.causal())

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The inverse temperature, at most 100."""
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def encode_image(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch embed_dim"]:
        """Return image embeddings of unit length."""
        return F.normalize(self.image(x), dim=1)

    def encode_text(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch embed_dim"]:
        """Return text embeddings of unit length."""
        return F.normalize(self.text(tokens), dim=1)

    def forward(
        self, x: Float[Tensor, "images channel height width"], tokens: Int[Tensor, "texts context"]
    ) -> Float[Tensor, "images texts"]:
        """Return scaled cosines between images and texts."""
        return self.scale * self.encode_image(x) @ self.encode_text(tokens).T

    def zero_shot(self, prompts: Int[Tensor, "classes context"]) -> ZeroShot:
        """Return a classifier of images with one prompt a class, in evaluation mode where this model is."""
        with torch.no_grad():
            embedded = self.encode_text(prompts)
        return ZeroShot(self.image, embedded, float(self.scale.detach())).train(self.training)


class ZeroShot(nn.Module):
    """A classifier by nearest prompt: logits are scaled cosines with the prompts' embeddings."""

    prompts: Tensor

    def __init__(self, image: nn.Module, prompts: Float[Tensor, "classes embed_dim"], scale: float) -> None:
        super().__init__()
        self.image, self.scale = image, scale
        self.register_buffer("prompts", F.normalize(prompts.detach(), dim=1))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return self.scale * F.normalize(self.image(x), dim=1) @ self.prompts.T


def contrastive_loss(logits: Float[Tensor, "pairs pairs"]) -> Float[Tensor, ""]:
    """Return the mean of both cross-entropies: which text to an image, which image to a text (row i, column i).

    Raises:
        ValueError: If `logits` is not square.

    Example:
        >>> contrastive_loss(torch.zeros(4, 4)).item() == torch.tensor(4.0).log().item()
        True
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; as many images as texts are needed")
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
