"""A folder with the published checkpoints of CLIP and DiffCLIP, as two zero-shot classifiers."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from faultlines.models.clip.checkpoints import load_clip
from faultlines.models.clip.two_tower import ZeroShot

STEMS = {"CLIP": "clip", "DiffCLIP": "diffclip"}
SUFFIXES = (".safetensors", ".pt", ".bin")


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
    held = load_file(prompts)
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
