from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from faultlines.models import ViT


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def target() -> Tensor:
    return torch.tensor([0, 3, 4])


def convolutional(activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(1)
    return (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            activation(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(96, 5),
        )
        .double()
        .eval()
    )


@pytest.fixture
def smooth() -> nn.Sequential:
    return convolutional(nn.GELU)


@pytest.fixture
def rectified() -> nn.Sequential:
    return convolutional(nn.ReLU)


@pytest.fixture
def linear() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 5)).double()


@pytest.fixture
def transformer() -> ViT:
    torch.manual_seed(3)
    return ViT(
        image_size=8, patch_size=2, channels=2, classes=5, dim=8, depth=3, heads=2, qk_gain=3.0
    ).double()
