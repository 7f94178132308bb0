from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.data import load
from faultlines.models import ViT


@pytest.fixture(scope="session")
def digits():
    return load("digits", n_test=150)


@pytest.fixture(scope="session")
def trained(digits):
    """A ViT trained for a few seconds, in eval mode."""
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
    model.eval()
    with torch.no_grad():
        assert (model(digits.x_test).argmax(dim=1) == digits.y_test).float().mean() > 0.9
    return model


@pytest.fixture(scope="session")
def cnn(digits):
    """Two convolutions and a linear layer: cheap enough for peers that ask thousands of times."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for batch in torch.randperm(len(digits.y_train), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch]).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval()
