"""Public CLIP and DiffCLIP checkpoints, by the names of their state dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from faultlines.models.clip.image import ImageTower
from faultlines.models.clip.names import is_open_clip, our_names
from faultlines.models.clip.stack import Activation
from faultlines.models.clip.text import TextTower
from faultlines.models.clip.two_tower import CLIP
from faultlines.models.weight_files import IMAGENET_PIXELS, read_state

HEAD_WIDTH = 64  # of every public CLIP; the state dict does not say
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_NEEDED = (
    *(
        "image.cls",
        "image.position",
        "image.patch.weight",
        "image.projection.weight",
        "image.blocks.0.mlp.0.weight",
    ),
    *("text.position", "text.embedding.weight", "text.projection.weight", "text.blocks.0.mlp.0.weight"),
)


def load_clip(
    path: str | Path,
    *,
    image_heads: int | None = None,
    text_heads: int | None = None,
    activation: Activation = "gelu",
    lambda_init: float | str = 0.8,
) -> CLIP:
    """Build a `CLIP` from a public checkpoint and return it in evaluation mode, in float32.

    Two families are known by their names: open_clip's and OpenAI's (`visual.conv1.weight`, ...), and that of
    DiffCLIP and of its baseline (`visual.patch_embed.proj.weight`, ...: a timm image tower, OpenAI's text tower).
    Sizes come from the shapes. What a state dict does not say comes from the family: pixel statistics (CLIP's;
    ImageNet's for DiffCLIP), the epsilon of timm's norms, DiffCLIP's QuickGELU in the text tower.

    Args:
        path: A `.safetensors` file, or a torch file that `weights_only=True` reads.
        image_heads: Heads of the image tower; width / 64 by default.
        text_heads: Heads of the text tower; width / 64 by default.
        activation: Of an open_clip-style network; `"quick_gelu"` for OpenAI's weights.
        lambda_init: That of differential towers; `"depth"` for the published variant with the schedule.

    Raises:
        ValueError: If the file is refused, of neither family, or lacks or exceeds what the network has.
    """
    state = read_state(path)
    open_clip = is_open_clip(state)
    ours, differential = our_names(state)
    if missing := [name for name in _NEEDED if name not in ours]:
        raise ValueError(f"path={str(path)!r} is no whole CLIP: nothing in it is our {missing[0]!r}")
    image_dim, text_dim = ours["image.cls"].shape[-1], ours["text.position"].shape[-1]
    patch, embed_dim = ours["image.patch.weight"].shape[-1], ours["image.projection.weight"].shape[0]
    side = round((ours["image.position"].shape[1] - 1) ** 0.5)
    mean, std = CLIP_PIXELS if open_clip else IMAGENET_PIXELS
    vision = ImageTower(
        image_size=side * patch,
        patch_size=patch,
        channels=ours["image.patch.weight"].shape[1],
        embed_dim=embed_dim,
        **_stack_sizes(ours, "image", image_dim, image_heads),
        pre_norm="image.pre_norm.weight" in ours,
        activation=activation if open_clip else "gelu",
        norm_eps=1e-5 if open_clip or "image" in differential else 1e-6,
        mean=mean,
        std=std,
    )
    text = TextTower(
        vocabulary=len(ours["text.embedding.weight"]),
        context=len(ours["text.position"]),
        embed_dim=embed_dim,
        **_stack_sizes(ours, "text", text_dim, text_heads),
        activation=activation if open_clip else "quick_gelu",
    )
    options = {"lambda_init": lambda_init} if differential else None
    attention = "differential" if differential else "softmax"
    model = CLIP(vision, text, attention=attention, attention_options=options, towers=differential)
    # pixel statistics and masks are ours and in no checkpoint
    learned = {name for name, _ in model.named_parameters()}
    own = {name: value for name, value in model.state_dict().items() if name not in learned}
    try:
        model.load_state_dict({name: value.float() for name, value in ours.items()} | own)
    except RuntimeError as error:
        raise ValueError(
            f"path={str(path)!r} does not fit the network its shapes ask for: {error}"
        ) from error
    return model.eval()


def _stack_sizes(ours: dict[str, Tensor], tower: str, dim: int, heads: int | None) -> dict[str, Any]:
    depth = 1 + max(int(name.split(".")[2]) for name in ours if name.startswith(f"{tower}.blocks."))
    return {
        "dim": dim,
        "depth": depth,
        "heads": max(1, dim // HEAD_WIDTH) if heads is None else heads,
        "mlp_ratio": len(ours[f"{tower}.blocks.0.mlp.0.weight"]) / dim,
    }
