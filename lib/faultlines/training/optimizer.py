"""The optimizer of a run and what its weight decay acts on."""

from __future__ import annotations

import torch
from torch import nn

from faultlines.training.settings import Settings

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
