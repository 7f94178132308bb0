"""The network that attacks are tested and measured on: a ViT trained on digits for some seconds."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from faultlines.data import load
from faultlines.data.dataset import Dataset
from faultlines.models import ViT


def trained(model: nn.Module, digits: Dataset, *, lr: float, epochs: int) -> nn.Module:
    """Train a model, in place, and return it in eval mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.y_train), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch]).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval()


def trained_vit(digits: Dataset) -> ViT:
    """Return a small ViT, trained."""
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=32, depth=2, heads=4)
    return trained(model, digits, lr=3e-3, epochs=15)


def digits_vit(n_test: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a trained model in eval mode and its test set."""
    digits = load("digits", n_test=n_test)
    return trained_vit(digits), *digits.test
