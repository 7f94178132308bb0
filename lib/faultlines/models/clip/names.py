"""The names that public CLIP and DiffCLIP state dicts use, and ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

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


def our_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
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
    differential = tuple(
        t for t in ("image", "text") if f"{t}.blocks.0.attention.mechanism.lambda_q1" in ours
    )
    return ours, differential


def _inside(rest: str, name: str) -> str:
    for theirs, our in sorted(BLOCK.items(), key=lambda item: -len(item[0])):
        if rest == theirs:
            return our
        if rest.startswith((theirs + ".", theirs + "_")):  # in_proj_weight has an underscore
            return f"{our}.{rest[len(theirs) + 1 :]}"
    raise ValueError(f"the state dict has {name!r}, which is no part of a block known here")
