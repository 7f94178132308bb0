from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.estimators import grad_cam, logits_and_maps, normalize_map
from faultlines.estimators.attribution.cam import cam_of_head, pools_linearly


class Pooled(nn.Module):
    """Ends in average pooling and a linear layer, and says so."""

    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(6, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
        )
        self.head = nn.Linear(5, classes)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


class Flattened(nn.Module):
    """Has no such end: the closed form does not hold."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.second = nn.Conv2d(4, 5, 3)
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(5 * 5 * 5, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return self.out(self.second(self.first(x).tanh()).tanh())


def make(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return kind().to(dtype).eval()


def images(n=4, size=16, dtype=torch.float64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


TARGETS = torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", ["none", "minmax", "l1", "l2"])
def test_closed_form_is_the_derivative(relu, center, normalize):
    model, x = make(Pooled), images()
    options = {"relu": relu, "center": center, "normalize": normalize}
    closed = grad_cam(model, x, TARGETS, method="closed", **options)
    by_name = grad_cam(model, x, TARGETS, layer="body.4", **options)
    derived = grad_cam(model, x, TARGETS, method="autograd", **options)
    assert closed.abs().max() > 1e-3
    assert (closed - derived).abs().max() < 1e-14
    assert (closed - by_name).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("kind", "layer"),
    [(Pooled, "body.4"), (Pooled, "body.0"), (Flattened, "first"), (Flattened, "second")],
)
@pytest.mark.parametrize("relu", [True, False])
def test_maps_are_those_of_captum(kind, layer, relu):
    captum = pytest.importorskip("captum.attr")
    model, x = make(kind), images()
    theirs = captum.LayerGradCam(model, model.get_submodule(layer)).attribute(
        x, target=TARGETS, relu_attributions=relu
    )
    assert (grad_cam(model, x, TARGETS, layer=layer, relu=relu) - theirs[:, 0]).abs().max() < 1e-12


@pytest.mark.parametrize(("kind", "layer"), [(Pooled, "body.4"), (Flattened, "second")])
def test_maps_are_those_of_pytorch_grad_cam(kind, layer):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = make(kind, torch.float32), images(dtype=torch.float32)
    size = grad_cam(model, x, TARGETS, layer=layer).shape[1]
    with peer.GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        cam.get_target_width_height = lambda given: (size, size)  # no upsampling to the image
        theirs = cam(input_tensor=x, targets=[ClassifierOutputTarget(int(t)) for t in TARGETS])
    ours = grad_cam(model, x, TARGETS, layer=layer, normalize="minmax")
    # theirs divides by the range plus 1e-7, twice
    scale = grad_cam(model, x, TARGETS, layer=layer).amax(dim=(1, 2))
    assert (ours - torch.as_tensor(theirs)).abs().max() < 1e-6 + 3e-7 / scale.min()


@pytest.mark.parametrize("method", ["closed", "autograd"])
def test_gradient_through_the_map_is_the_finite_difference(method):
    model, x = make(Pooled), images()

    def penalty():
        maps = grad_cam(model, x, TARGETS, method=method, center=True, create_graph=True)
        return 1e4 * (maps**2).mean()

    gradients = torch.autograd.grad(penalty(), list(model.parameters()), allow_unused=True)
    generator = torch.Generator().manual_seed(2)
    step = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]
    slope = sum((g * d).sum() for g, d in zip(gradients, step, strict=True) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(model.parameters(), step, strict=True):
                p += sign * 1e-6 * d
        values.append(penalty().item())
        with torch.no_grad():
            for p, d in zip(model.parameters(), step, strict=True):
                p -= sign * 1e-6 * d
    assert abs(slope) > 1e-4
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_gradient_through_any_network_passes_gradcheck():
    model, x = make(Flattened), images(2)
    start = model.first.weight.detach().clone().requires_grad_()
    del model.first.weight  # a plain tensor in its place lets gradcheck move it

    def maps(weight):
        model.first.weight = weight
        return grad_cam(model, x, TARGETS[:2], layer="second", create_graph=True, relu=False)

    assert torch.autograd.gradcheck(maps, start)


def test_the_map_shares_out_the_logit():
    model, x = make(Pooled), images()
    logits, maps = logits_and_maps(model, x, TARGETS, relu=False)
    assert torch.equal(logits, model(x))
    expected = logits.gather(1, TARGETS[:, None])[:, 0] - model.head.bias[TARGETS]
    assert torch.allclose(maps.sum(dim=(1, 2)), expected, atol=1e-14)


def test_centred_maps_do_not_see_what_softmax_does_not_see():
    model, x = make(Pooled), images()
    before = {c: grad_cam(model, x, TARGETS, center=c) for c in (True, False)}
    with torch.no_grad():
        model.head.weight += torch.linspace(-1, 1, 5, dtype=torch.float64)
    assert torch.allclose(grad_cam(model, x, TARGETS, center=True), before[True], atol=1e-14)
    assert not torch.allclose(grad_cam(model, x, TARGETS, center=False), before[False], atol=1e-3)
    centred = [grad_cam(model, x, t, center=True, relu=False) for t in range(4)]
    assert sum(centred).abs().max() < 1e-14  # some class has positive evidence wherever another has negative


@pytest.mark.parametrize("normalize", ["none", "minmax", "l1", "l2"])
@pytest.mark.parametrize("method", ["closed", "autograd"])
def test_empty_maps_have_no_nan_in_value_or_gradient(normalize, method):
    model, x = make(Pooled), images()
    with torch.no_grad():
        model.head.weight[2].fill_(-1.0)  # features are not negative, so class 2 has no positive evidence
    maps = grad_cam(model, x, TARGETS, normalize=normalize, method=method, create_graph=True)
    assert (maps[TARGETS == 2] == 0).all() and (maps[TARGETS != 2] > 0).any()
    (maps**2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["minmax", "l1", "l2"])
@pytest.mark.parametrize("value", [0.0, 1e-12, 3.0])
def test_normalising_a_constant_map(kind, value):
    maps = torch.full((1, 3, 3), value, dtype=torch.float64, requires_grad=True)
    found = normalize_map(maps, kind)
    found.square().sum().backward()
    assert torch.isfinite(maps.grad).all()
    expected = {"minmax": 0.0, "l1": 1 / 9, "l2": 1 / 3}[kind] if value == 3.0 else 0.0
    assert torch.allclose(found, torch.full_like(found, expected))
    if value != 3.0:
        assert (maps.grad == 0).all()


def test_normalised_maps_have_the_norm_and_the_gradient_of_the_formula():
    maps = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalize_map(maps, "l1").abs().sum(dim=(1, 2)), torch.ones(3).double())
    assert torch.allclose(normalize_map(maps, "l2").square().sum(dim=(1, 2)), torch.ones(3).double())
    scaled = normalize_map(maps, "minmax").flatten(1)
    assert (scaled.amin(1) == 0).all() and (scaled.amax(1) == 1).all()
    for kind in ("minmax", "l1", "l2"):
        torch.autograd.gradcheck(lambda m, kind=kind: normalize_map(m, kind), maps.requires_grad_())


def test_maps_are_detached_unless_asked_for_and_the_model_is_left_alone():
    model, x = make(Pooled), images()
    for method in ("closed", "autograd"):
        assert not grad_cam(model, x, 0, method=method).requires_grad
        assert grad_cam(model, x, 0, method=method, create_graph=True).requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert "features" not in vars(model) and not model.body[4]._forward_hooks
    with torch.no_grad():
        assert grad_cam(model, x, 0, method="autograd").shape == (4, 6, 6)


def test_a_frozen_network_has_maps():
    model, x = make(Flattened).requires_grad_(False), images()
    assert grad_cam(model, x, TARGETS, layer="second").max() > 0


def test_a_sample_has_the_map_that_it_has_alone():
    model, x = make(Flattened), images()
    together = grad_cam(model, x, TARGETS, layer="first")
    alone = torch.cat([grad_cam(model, x[i : i + 1], int(TARGETS[i]), layer="first") for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-14)


def test_closed_form_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # one image, two channels, 1 x 2
    weight = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    assert cam_of_head(features, weight, torch.tensor([0])).tolist() == [[[-1.0, -1.5]]]
    centred = cam_of_head(features, weight, torch.tensor([0]), center=True)  # row less mean: [-0.5, -0.5]
    assert centred.tolist() == [[[-1.0, -1.75]]]


def test_features_may_be_a_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))

    model, x = make(Net), images()
    assert pools_linearly(model)
    assert torch.allclose(grad_cam(model, x, 1), grad_cam(model, x, 1, method="autograd"), atol=1e-14)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": 4}, "classes from 4 to 4; allowed are 0 to 3"),
        ({"target": torch.tensor([0, 1])}, "integers of shape (4,)"),
        ({"target": torch.zeros(4)}, "dtype torch.float32"),
        ({"method": "exact"}, "method='exact' is not one of"),
        ({"normalize": "max"}, "normalize='max' is not one of"),
        ({"layer": "body.9"}, "layer='body.9' is not one of body"),
        ({"layer": "body.0", "method": "closed"}, "method='closed' needs layer=None"),
        ({"layer": "head"}, "Grad-CAM needs [batch, k, h, w]"),
        ({"layer": nn.Conv2d(1, 1, 1)}, "was not run"),
    ],
)
def test_what_does_not_fit_is_named(options, said):
    import re

    with pytest.raises(ValueError, match=re.escape(said)):
        grad_cam(make(Pooled), images(), **{"target": TARGETS, **options})


def test_a_network_that_declares_nothing_needs_a_layer():
    with pytest.raises(ValueError, match="layer=None needs a model with features"):
        logits_and_maps(make(Flattened), images(), 0)
    model, x = make(Flattened), images()
    assert torch.equal(grad_cam(model, x, 0), grad_cam(model, x, 0, layer="second"))  # the last convolution


def test_softmax_is_shift_invariant_so_centring_loses_nothing():
    model, x = make(Pooled), images()
    logits = model(x)
    assert torch.allclose(
        F.cross_entropy(logits, TARGETS), F.cross_entropy(logits - logits.mean(1, keepdim=True), TARGETS)
    )
