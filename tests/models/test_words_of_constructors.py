"""The networks of the library take the shape of an image in the same words."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from faultlines.models import CNN, MLP, SmallCNN, ViT

MAKES = {
    "vit": partial(ViT, patch_size=2, classes=3, dim=8, depth=1, heads=2),
    "cnn": partial(CNN, classes=3, filters=(4,), width=5),
    "mlp": partial(MLP, classes=3, widths=(6,)),
}


@pytest.mark.parametrize("name", MAKES)
def test_a_shape_or_channels_and_a_size_make_the_same_network(name):
    def make(**words):
        torch.manual_seed(0)
        return MAKES[name](**words)

    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    by_shape, by_size = make(image_shape=(3, 4, 4)), make(channels=3, image_size=4)
    assert torch.equal(by_shape(x), by_size(x))
    assert make(image_shape=(3, 4, 8))(torch.rand(2, 3, 4, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "image_shape=None, channels=None, image_size=None: give image_shape, or the other two"),
        ({"channels": 3}, "image_size=None: give image_shape, or the other two"),
        ({"image_shape": (3, 4, 4), "channels": 3}, "give image_shape, or the other two"),
        ({"image_shape": (4, 4)}, r"image_shape=\(4, 4\) must be \(channels, height, width\)"),
        (
            {"image_shape": (3, 4, 4), "channels": (16, 32)},
            r"channels=\(16, 32\) is the number of image channels in every network; .* are filters",
        ),
    ],
)
def test_another_way_is_refused_in_one_line(name, words, said):
    with pytest.raises(ValueError, match=said):
        MAKES[name](**words)


def test_channels_are_those_of_the_image_in_every_network():
    assert SmallCNN(classes=2, channels=1)(torch.rand(2, 1, 16, 16)).shape == (2, 2)
    assert CNN(classes=2, channels=1, image_size=16)(torch.rand(2, 1, 16, 16)).shape == (2, 2)
