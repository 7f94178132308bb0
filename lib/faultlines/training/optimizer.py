"""The optimizer of a run, what its weight decay acts on, and its learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from faultlines.training.settings import Settings

START, END = 1 / 25, 1e-4 / 25  # of the one-cycle policy, torch's defaults
BETAS, EPS = (0.9, 0.999), 1e-8
POSITIONS = {"cls", "position", "cls_token", "pos_embed", "class_embedding", "position_embedding"}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def decays(model: nn.Module) -> dict[str, bool]:
    """Return, for every parameter by name, whether weight decay acts on it.

    It acts on weight matrices and kernels; biases, gains of norms, the class token and positions are left
    alone.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=4, depth=1, heads=1)
        >>> [name for name, decayed in decays(model).items() if decayed][:3]
        ['patch.weight', 'blocks.0.attention.qkv.weight', 'blocks.0.attention.out.weight']
    """
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    return {
        name: p.ndim > 1 and id(p) not in norms and POSITIONS.isdisjoint(name.split("."))
        for name, p in model.named_parameters()
    }


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return torch's optimizer over two groups, the decayed parameters and the others.

    The fused step is one kernel for all parameters; on a small model the loop over parameters would otherwise
    cost as much as a tenth of the step.
    """
    decayed = decays(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decayed[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trained if not decayed[name]], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for _, p in trained)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, eps=EPS, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    r"""Return the learning rate of step `step` of `steps`, counted from 0.

    With $w$ warm-up steps the rate rises linearly as $(t + 1) / w$, then stays (`"constant"`) or falls as
    $\frac12 (1 + \cos \pi \frac{t - w}{T - w})$ (`"cosine"`, Loshchilov and Hutter 2017). `"onecycle"` is the
    policy of Smith and Topin (2018) as torch's `OneCycleLR` has it, without its cycle of momenta.

    Example:
        >>> s = Settings(epochs=1, lr=1.0, warmup=0.5)
        >>> [round(learning_rate(t, 8, s), 3) for t in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if settings.schedule == "onecycle":
        peak = settings.warmup * steps - 1
        if step <= peak:
            return settings.lr * _cosine(START, 1.0, step / peak if peak else 1.0)
        peak = max(peak, 0.0)
        return settings.lr * _cosine(1.0, END, (step - peak) / max(steps - 1 - peak, 1))
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * _cosine(1.0, 0.0, (step - warmup) / (steps - warmup))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
