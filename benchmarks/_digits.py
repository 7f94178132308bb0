"""The network that the attacks are measured on: a ViT trained on digits for some seconds."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from faultlines.data import load
from faultlines.models import ViT


def digits_vit(n_test: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a trained model in eval mode and its test set."""
    digits = load("digits", n_test=n_test)
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=32, depth=2, heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for batch in torch.randperm(len(digits.y_train), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch]).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval(), *digits.test
