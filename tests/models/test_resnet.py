from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from faultlines.estimators import grad_cam
from faultlines.models import ResNet

resnet = pytest.importorskip("torchvision.models.resnet")
MEAN, STD = (
    torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)


@pytest.mark.parametrize(
    ("depth", "make", "suffix"),
    [(18, resnet.resnet18, ".pth"), (18, resnet.resnet18, ".safetensors"), (50, resnet.resnet50, ".pth")],
)
def test_with_its_weights_it_is_torchvisions_network(tmp_path, depth, make, suffix):
    torch.manual_seed(0)
    theirs = make(weights=None, num_classes=5).eval()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(theirs.state_dict(), path)
    ours = ResNet(classes=5, depth=depth, weights=path).eval()
    assert not torch.equal(ours.head.weight, theirs.fc.weight)  # the head is new
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs((x - MEAN) / STD))
        assert ours.features(x).shape == (2, theirs.fc.in_features, 2, 2)


def test_the_closed_form_of_grad_cam_holds():
    torch.manual_seed(0)
    model = ResNet(classes=3, depth=18, small_images=True).double().eval()
    x, target = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.tensor([2, 0])
    closed, general = (grad_cam(model, x, target, relu=False, method=m) for m in ("closed", "autograd"))
    assert closed.shape == (2, 4, 4)
    torch.testing.assert_close(closed, general, rtol=0, atol=1e-12)


def test_dropout_drops_whole_features_in_training_alone():
    torch.manual_seed(0)
    model = ResNet(classes=2, depth=18, dropout=0.5, small_images=True)
    x = torch.rand(4, 3, 32, 32)
    gone = (model.features(x) == 0).flatten(2).all(2).float().mean()
    assert 0.4 < gone < 0.6
    model.eval()
    assert torch.equal(model(x), model(x))
    assert (model.features(x) == 0).flatten(2).all(2).float().mean() < 0.1


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(resnet.resnet18(weights=None).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit"):
        ResNet(classes=2, depth=50, weights=path)
    torch.save(torch.nn.Linear(1, 1), path)  # a module: more than weights
    with pytest.raises(ValueError, match="holds more than weights"):
        ResNet(classes=2, depth=18, weights=path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 34}, r"depth=34 is not one of \(18, 50\)"),
        ({"classes": 0}, "classes=0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        ({"weights": "nowhere.pth"}, "weights: path='nowhere.pth' is not there"),
        ({"weights": "x.pth", "small_images": True}, "need small_images=False"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        ResNet(**{"classes": 4, "depth": 18, **change})


def test_without_torchvision_the_class_imports_and_says_what_it_needs():
    code = """
import sys
sys.modules["torchvision"] = None
from faultlines.models import ResNet
try:
    ResNet(classes=2)
except ImportError as error:
    assert "takes its layers from torchvision" in str(error), error
else:
    raise SystemExit("made one")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
