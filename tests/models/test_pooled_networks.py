from __future__ import annotations

import pytest
import torch

from faultlines.models import SmallCNN
from faultlines.models.pooled_networks import receptive_field


def test_parameters_and_shapes():
    model = SmallCNN(classes=4)
    assert sum(p.numel() for p in model.parameters()) == 28_180
    x = torch.rand(2, 3, 32, 32)
    assert model.features(x).shape == (2, 64, 8, 8) and model(x).shape == (2, 4)
    assert SmallCNN(classes=4, strides=(2, 2, 2)).features(torch.rand(1, 3, 64, 64)).shape == (1, 64, 8, 8)


def test_logits_are_the_head_of_the_mean_feature():
    model, x = SmallCNN(classes=3, channels=1).eval(), torch.rand(5, 1, 20, 28)
    features = model.features(x)
    assert features.min() >= 0
    expected = (
        torch.einsum("bkhw,ck->bc", features, model.head.weight) / features[0, 0].numel() + model.head.bias
    )
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("strides", [(2, 2, 1), (2, 2, 2), (1, 2, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_receptive_field_is_what_a_feature_depends_on(strides, kernel):
    torch.manual_seed(0)
    model = SmallCNN(classes=2, strides=strides, last_kernel=kernel).double().eval()
    for module in model.modules():  # no dead unit hides a path
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.abs_()
    x = torch.full((1, 3, 64, 64), 0.9, dtype=torch.float64, requires_grad=True)
    features = model.features(x)
    middle = features.shape[-1] // 2
    (slope,) = torch.autograd.grad(features[..., middle, middle].sum(), x)
    seen = slope[0].abs().sum(0) > 0
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == model.receptive_field
    if strides == (2, 2, 1):
        assert model.receptive_field == {1: 15, 3: 23}[kernel]


def test_images_are_normalised_inside():
    torch.manual_seed(0)
    plain = SmallCNN(classes=2, mean=0.0, std=1.0).eval()
    own = SmallCNN(classes=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).eval()
    own.load_state_dict({k: v for k, v in plain.state_dict().items() if "normalize" not in k}, strict=False)
    x = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    torch.testing.assert_close(own(x), plain((x - mean) / std))


def test_the_field_of_one_convolution():
    assert receptive_field([5], [2]) == 5
    assert receptive_field([], []) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 0}, "classes=0 must be at least 1"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"strides": (2, 2)}, r"strides=\(2, 2\) must be three numbers"),
        ({"strides": (2, 3, 1)}, "each 1 or 2"),
        ({"last_kernel": 5}, "last_kernel=5 is not one of 1, 3"),
        ({"std": 0.0}, "std=0.0 must be"),
        ({"mean": (0.1, 0.2)}, "one for each of channels=3"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        SmallCNN(**{"classes": 4, **change})


def test_images_of_other_channels_are_refused():
    with pytest.raises(
        ValueError, match=r"images have shape \(1, 32, 32\); this model takes \(3, any, any\)"
    ):
        SmallCNN(classes=4)(torch.rand(1, 1, 32, 32))
