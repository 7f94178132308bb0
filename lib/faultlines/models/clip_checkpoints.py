"""Public CLIP and DiffCLIP checkpoints, by the names of their state dicts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faultlines.models.clip import CLIP, ImageTower, TextTower, Tower, ZeroShot
from faultlines.models.pixel_normalization import CLIP_PIXELS, IMAGENET_PIXELS
from faultlines.models.transformer_blocks import Activation
from faultlines.models.weight_files import one_line, read_safetensors, read_state

HEAD_WIDTH = 64  # of every public CLIP; the state dict does not say
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
STEMS = {"CLIP": "clip", "DiffCLIP": "diffclip"}
SUFFIXES = (".safetensors", ".pt", ".bin")

# inside a block, whichever family; query, key and value projections are joined below
BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.in_proj": "attention.qkv",
    "attn.qkv": "attention.qkv",
    "attn.out_proj": "attention.out",
    "attn.proj": "attention.out",
    "attn.diff_norm": "attention.mechanism.norm",
    "attn.lambda_q1": "attention.mechanism.lambda_q1",
    "attn.lambda_k1": "attention.mechanism.lambda_k1",
    "attn.lambda_q2": "attention.mechanism.lambda_q2",
    "attn.lambda_k2": "attention.mechanism.lambda_k2",
    "mlp.c_fc": "mlp.0",
    "mlp.c_proj": "mlp.2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
OUTSIDE = {
    "visual.conv1": "image.patch",
    "visual.patch_embed.proj": "image.patch",
    "visual.ln_pre": "image.pre_norm",
    "visual.norm_pre": "image.pre_norm",
    "visual.ln_post": "image.norm",
    "visual.norm": "image.norm",
    "token_embedding": "text.embedding",
    "ln_final": "text.norm",
}
WHOLE = {
    "visual.class_embedding": "image.cls",
    "visual.cls_token": "image.cls",
    "visual.positional_embedding": "image.position",
    "visual.pos_embed": "image.position",
    "visual.proj": "image.projection.weight",
    "image_projection": "image.projection.weight",
    "positional_embedding": "text.position",
    "text_projection": "text.projection.weight",
    "logit_scale": "log_scale",
}
# kept by some exports, derived from the rest
IGNORED = {"attn_mask", "input_resolution", "context_length", "vocab_size"}
_BLOCK_NAME = re.compile(
    r"(visual\.transformer\.resblocks|visual\.blocks|transformer\.resblocks)\.(\d+)\.(.+)"
)
_PROJECTION = re.compile(r"attn\.([qkv])_proj\.(weight|bias)")


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
            f"path={str(path)!r} does not fit the network its shapes ask for: {one_line(error)}"
        ) from error
    return model.eval()


def load_published(
    folder: str | Path, *, image_heads: int | None = None, text_heads: int | None = None
) -> dict[str, ZeroShot]:
    """Read both checkpoints and the tokens of the prompts, and return a classifier of images from each.

    The folder holds `clip` and `diffclip`, each as `.safetensors`, `.pt` or `.bin` (see `load_clip` for what is
    accepted), and `prompts.safetensors` with `tokens`, `[classes, context]` integers: one prompt a class,
    tokenised for the text towers, which this library has no tokenizer of.

    Args:
        folder: Where they are.
        image_heads: Heads of the image towers; width / 64 by default.
        text_heads: Heads of the text towers; width / 64 by default.

    Returns:
        `"CLIP"` and `"DiffCLIP"`, in evaluation mode.

    Raises:
        ValueError: If a file is missing or is not what it should be.
    """
    folder = Path(folder)
    prompts = folder / "prompts.safetensors"
    if not prompts.is_file():
        raise ValueError(f"folder={str(folder)!r} has no prompts.safetensors with the tokens of the prompts")
    held = read_safetensors(prompts)
    if set(held) != {"tokens"} or held["tokens"].ndim != 2 or held["tokens"].is_floating_point():
        raise ValueError(f"{prompts} must hold `tokens`, integers [classes, context], and nothing else")
    found = {}
    for name, stem in STEMS.items():
        files = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        there = [file for file in files if file.is_file()]
        if not there:
            raise ValueError(
                f"folder={str(folder)!r} has none of {', '.join(file.name for file in files)} for {name}"
            )
        model = load_clip(there[0], image_heads=image_heads, text_heads=text_heads)
        found[name] = model.zero_shot(held["tokens"].long())
    return found


def is_open_clip(state: dict[str, Tensor]) -> bool:
    """Say whether a state dict is named as open_clip's, and not as DiffCLIP's.

    Raises:
        ValueError: If it is neither.
    """
    if "visual.conv1.weight" in state:
        return True
    if "visual.patch_embed.proj.weight" in state:
        return False
    raise ValueError(
        "the state dict has neither 'visual.conv1.weight' (open_clip) nor 'visual.patch_embed.proj.weight' "
        f"(DiffCLIP); its first names are {sorted(state)[:3]}"
    )


def our_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tower, ...]]:
    """Return the tensors under our names and in our shapes, and the towers with differential attention.

    Raises:
        ValueError: If a name is unknown.
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if name in IGNORED:
            continue
        if inside := _BLOCK_NAME.fullmatch(name):
            tower = "image" if inside[1].startswith("visual") else "text"
            block, rest = f"{tower}.blocks.{inside[2]}", inside[3]
            if part := _PROJECTION.fullmatch(rest):
                parts.setdefault(f"{block}.attention.qkv.{part[2]}", {})[part[1]] = value
                continue
            ours[f"{block}.{_inside(rest, name)}"] = value
        elif name in WHOLE:
            ours[WHOLE[name]] = value
        elif stem in OUTSIDE:
            ours[f"{OUTSIDE[stem]}.{kind}"] = value
        else:
            raise ValueError(
                f"the state dict has {name!r}, which is no part of a CLIP or DiffCLIP known here"
            )
    for name, three in parts.items():
        if set(three) != set("qkv"):
            raise ValueError(
                f"the state dict has {sorted(three)} of the query, key and value parts of {name!r}"
            )
        ours[name] = torch.cat([three[letter] for letter in "qkv"])
    for name in ("image.projection.weight", "text.projection.weight"):
        if name in ours:
            ours[name] = ours[name].T  # published as [dim, embed_dim]
    for name in ("image.cls", "image.position"):
        if name in ours:
            ours[name] = ours[name].reshape(1, -1, ours[name].shape[-1])
    if "image.patch.weight" in ours and "image.patch.bias" not in ours:
        ours["image.patch.bias"] = torch.zeros(len(ours["image.patch.weight"]))  # CLIP's has none
    towers: tuple[Tower, ...] = ("image", "text")
    differential: list[Tower] = [t for t in towers if f"{t}.blocks.0.attention.mechanism.lambda_q1" in ours]
    return ours, tuple(differential)


def _inside(rest: str, name: str) -> str:
    for theirs, our in sorted(BLOCK.items(), key=lambda item: -len(item[0])):
        if rest == theirs:
            return our
        if rest.startswith((theirs + ".", theirs + "_")):  # in_proj_weight has an underscore
            return f"{our}.{rest[len(theirs) + 1 :]}"
    raise ValueError(f"the state dict has {name!r}, which is no part of a block known here")


def _stack_sizes(ours: dict[str, Tensor], tower: str, dim: int, heads: int | None) -> dict[str, Any]:
    depth = 1 + max(int(name.split(".")[2]) for name in ours if name.startswith(f"{tower}.blocks."))
    return {
        "dim": dim,
        "depth": depth,
        "heads": max(1, dim // HEAD_WIDTH) if heads is None else heads,
        "mlp_ratio": len(ours[f"{tower}.blocks.0.mlp.0.weight"]) / dim,
    }
