from __future__ import annotations

import pytest
import torch
from benchmarks import _digits
from torch import nn

from faultlines.data import load


@pytest.fixture(scope="session")
def digits():
    return load("digits", n_test=150)


@pytest.fixture(scope="session")
def trained(digits):
    """A ViT trained for a few seconds, in eval mode."""
    model = _digits.trained_vit(digits)
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
    return _digits.trained(model, digits, lr=5e-3, epochs=12)
