"""CLIP: a tower of images and one of captions, and the temperature between them (Radford et al. 2021).

Each tower is a transformer that ends in an embedding (arXiv 2103.00020); the words of captions become tokens here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.pixel_normalization import Statistic, check_images, check_tensor, pixel_statistic
from faultlines.models.transformer_blocks import Activation, AttentionChoice, block_stack, plug

Tower = Literal["image", "text"]

PAD, START = 0, 1
MAX_LOG_SCALE = math.log(100)  # as in the paper: keeps training stable


class ImageTower(nn.Module):
    """Vision transformer from images in [0, 1] to embeddings; normalisation is its own first step.

    Called on images it returns embeddings of any length, which is what `EmbeddingAttack` takes as its model.

    Args:
        image_size: Height and width in pixels.
        patch_size: Side of a patch; must divide `image_size`.
        channels: Image channels.
        embed_dim: Width of the embedding, that of the text tower.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block.
        mlp_ratio: Hidden width of the MLP over `dim`.
        pre_norm: Whether tokens are normalised before the first block, as in CLIP.
        activation: Of the MLP.
        norm_eps: Epsilon of all normalisations.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Raises:
        ValueError: If a size is below 1 or does not divide.

    Example:
        >>> ImageTower(image_size=8, patch_size=4, embed_dim=6, dim=8, depth=1, heads=2)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 6])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        channels: int = 3,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        pre_norm: bool = True,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
        mean: Statistic = 0.5,
        std: Statistic = 0.5,
    ) -> None:
        super().__init__()
        for name, size in {"channels": channels, "embed_dim": embed_dim}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if int(dim * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio={mlp_ratio} must leave the MLP at least one unit")
        if patch_size < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} must be a positive divisor of image_size={image_size}")
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, pixel_statistic(name, value, channels))
        self.image_shape = (channels, image_size, image_size)
        self.patch = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, (image_size // patch_size) ** 2 + 1, dim))
        self.pre_norm = nn.LayerNorm(dim, eps=norm_eps) if pre_norm else nn.Identity()
        self.blocks = block_stack(
            dim, depth, heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.projection = nn.Linear(dim, embed_dim, bias=False)

    def tokens(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token dim"]:
        """Return what enters the first block: class token and patches with positions.

        Raises:
            ValueError: If the images are no tensor or have another shape.
        """
        x = check_images(x, self.image_shape)
        patches = self.patch((x - self.mean) / self.std).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1)
        return self.pre_norm(tokens + self.position)

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings, not normalised."""
        return self.projection(self.norm(self.blocks(self.tokens(x))[:, 0]))


class TextTower(nn.Module):
    """Causal transformer from token numbers to embeddings, read at the end token.

    The end token is the one of the largest number, as in CLIP: what comes after it is padding, which a causal
    mask keeps from it.

    Args:
        vocabulary: Number of tokens.
        context: Length of a tokenised text.
        embed_dim: Width of the embedding, that of the image tower.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads a block.
        mlp_ratio: Hidden width of the MLP over `dim`.
        activation: Of the MLP.
        norm_eps: Epsilon of all normalisations.

    Raises:
        ValueError: If a size is below 1 or does not divide.

    Example:
        >>> text = TextTower(vocabulary=9, context=4, embed_dim=6, dim=8, depth=1, heads=2)
        >>> text(torch.tensor([[1, 8, 0, 0], [1, 2, 3, 8]])).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        embed_dim: int,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, size in {"vocabulary": vocabulary, "context": context, "embed_dim": embed_dim}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        if int(dim * mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio={mlp_ratio} must leave the MLP at least one unit")
        self.vocabulary, self.context = vocabulary, context
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(0.01 * torch.randn(context, dim))
        self.blocks = block_stack(
            dim, depth, heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.projection = nn.Linear(dim, embed_dim, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        plug(self.blocks, "softmax", bias=self.causal())

    def causal(self) -> Float[Tensor, "query key"]:
        """Return the mask that is added to the scores: minus infinity where a key comes after its query."""
        return torch.full((self.context, self.context), -torch.inf).triu(1)

    def forward(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings, not normalised.

        Raises:
            ValueError: If the texts have another length.
        """
        check_tensor(tokens, "tokens")
        if tokens.ndim != 2 or tokens.shape[1] != self.context:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}; [batch, {self.context}] is needed")
        x = self.norm(self.blocks(self.embedding(tokens) + self.position))
        return self.projection(x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)])


class WordTokenizer:
    """Splits captions at spaces; 0 is padding, 1 the start, the largest number the end.

    Args:
        captions: Texts whose words make up the vocabulary, in alphabetical order.
        context: Length of a tokenised text, with start and end.

    Example:
        >>> tokenizer = WordTokenizer(["a red circle"], context=6)
        >>> tokenizer(["a circle", "red"]).tolist(), tokenizer.vocabulary
        ([[1, 2, 3, 5, 0, 0], [1, 4, 5, 0, 0, 0]], 6)
    """

    def __init__(self, captions: Iterable[str], context: int) -> None:
        words = sorted({word for caption in captions for word in caption.split()})
        self.numbers = {word: number for number, word in enumerate(words, start=START + 1)}
        self.context, self.end = context, len(words) + START + 1

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.end + 1

    def __call__(self, captions: Sequence[str]) -> Int64[Tensor, "batch context"]:
        """Return token numbers.

        Raises:
            ValueError: If a word is unknown or a caption too long.
        """
        tokens = torch.full((len(captions), self.context), PAD)
        for row, caption in zip(tokens, captions, strict=True):
            words = caption.split()
            if unknown := [word for word in words if word not in self.numbers]:
                raise ValueError(f"captions has the word {unknown[0]!r}, which is not in the vocabulary")
            numbers = [START, *(self.numbers[word] for word in words), self.end]
            if len(numbers) > self.context:
                raise ValueError(
                    f"captions has one of {len(words)} words; context={self.context} holds {self.context - 2}"
                )
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens


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
