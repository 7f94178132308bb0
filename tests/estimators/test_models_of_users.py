"""Every estimator on what users bring: outputs, modes, compiled networks, attention of torch's own."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.estimators import (
    attribute,
    empirical_ntk,
    grad_cam,
    hessian_top,
    hessian_trace,
    input_curvature,
    jacobian_norm,
    local_lipschitz,
    logit_jacobian_norm,
    logits_and_maps,
    margin_gradient,
)
from faultlines.training import InputGradient
from faultlines.training.objectives.input_penalties import CurvaturePenalty

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 2, 1, 2])

ESTIMATORS = {
    **{
        method: lambda model, x, method=method, **options: attribute(model, x, Y, method, **options)
        for method in (
            "gradient",
            "input_x_gradient",
            "smoothgrad",
            "integrated_gradients",
            "guided_backprop",
        )
    },
    "attribute grad_cam": lambda model, x: attribute(model, x, Y, "grad_cam"),
    "jacobian_norm": lambda model, x: jacobian_norm(model, x),
    "logit_jacobian_norm": lambda model, x: logit_jacobian_norm(model, x),
    "local_lipschitz": lambda model, x: local_lipschitz(model, x, 0.1, directions=2, ascent_steps=2).ascent,
    "margin_gradient": lambda model, x: margin_gradient(model, x, Y).norm,
    "input_curvature": lambda model, x: input_curvature(model, x, Y).norm,
    "hessian_top": lambda model, x: hessian_top(model, x, Y).values,
    "hessian_trace": lambda model, x: hessian_trace(model, x, Y, probes=2).mean,
    "empirical_ntk": lambda model, x: empirical_ntk(model, x),
}
each = pytest.mark.parametrize("name", ESTIMATORS)


def convolutional(*extra):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        *extra,
        nn.Flatten(),
        nn.Linear(144, 6),
        nn.Softplus(),
        nn.Linear(6, 3),
    )
    return nn.Sequential(*layers).eval()


class Wrapped(nn.Module):
    """Returns more than logits."""

    def __init__(self, form):
        super().__init__()
        self.model, self.form = convolutional(), form

    def forward(self, x):
        return self.form(self.model(x))


FORMS = {
    "tuple": lambda z: (z, None),
    "mapping": lambda z: {"logits": z, "loss": z.sum()},
    "object": lambda z: SimpleNamespace(logits=z),
}


@each
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_in_what_a_model_returns(name, form):
    found = ESTIMATORS[name](Wrapped(FORMS[form]).eval(), X)
    torch.testing.assert_close(found, ESTIMATORS[name](Wrapped(lambda z: z).eval(), X))


@each
def test_a_model_without_logits_is_refused(name):
    with pytest.raises(ValueError, match="no logits are to be found"):
        ESTIMATORS[name](Wrapped(lambda z: None).eval(), X)


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.conv, self.out = nn.ReLU(), nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

    def forward(self, x):
        return self.out(F.dropout(self.relu(self.conv(x)).flatten(1), 0.5, training=self.training))


@each
@pytest.mark.parametrize(
    "make",
    [
        lambda: convolutional(nn.Dropout(0.5)),
        lambda: convolutional(nn.BatchNorm2d(4)),
        lambda: convolutional(nn.RReLU()),
        lambda: nn.Sequential(convolutional(), nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))),
    ],
)
def test_training_mode_is_refused_in_one_line_and_moves_nothing(name, make):
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"in training mode, .*call model.eval\(\) first"):
        ESTIMATORS[name](model, X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n not in ("attribute grad_cam", "empirical_ntk")])
def test_dropout_as_a_function_is_refused(name):
    with pytest.raises(ValueError, match="draws random numbers"):
        ESTIMATORS[name](FunctionalDropout().train(), X)
    ESTIMATORS[name](FunctionalDropout().eval(), X)


@each
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_autograd_mode_of_the_caller_does_not_matter(name, mode):
    model = convolutional()
    expected = ESTIMATORS[name](model, X)
    with mode():
        found = ESTIMATORS[name](model, X.clone())
    torch.testing.assert_close(found, expected)


class Attentive(nn.Module):
    """Torch's own attention."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.into, self.out = kind, nn.Linear(8, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.into(x.flatten(1, 2))
        if self.kind == "module":
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        else:
            heads = tokens.unflatten(2, (2, 4)).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.out(mixed.mean(dim=1))


@pytest.mark.parametrize("kind", ["module", "function"])
@pytest.mark.parametrize(
    "name", [n for n in ESTIMATORS if n not in ("guided_backprop", "attribute grad_cam")]
)
def test_attention_of_torch_has_the_derivatives_that_are_asked_for(name, kind):
    torch.manual_seed(0)
    model = Attentive(kind).eval()
    found = ESTIMATORS[name](model, X)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        expected = ESTIMATORS[name](model, X)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["attribute grad_cam", "empirical_ntk", "hessian_top", "gradient"])
def test_a_compiled_network_is_the_original(name):
    model = convolutional()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(ESTIMATORS[name](compiled, X), ESTIMATORS[name](model, X))
    torch.testing.assert_close(grad_cam(compiled, X, Y, layer="0"), grad_cam(model, X, Y, layer="0"))


CHUNKED = {
    "class weights": lambda z, y: F.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 0.2]).to(z)),
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "smoothing": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
}


@pytest.mark.parametrize("loss", ["class weights", "sum", "smoothing"])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_a_chunk_does_not_change_the_hessian(loss, chunk_size):
    model, x = convolutional().double(), X.double()
    options = {"loss": CHUNKED[loss], "tol": 0.0, "steps": 30}
    whole = hessian_top(model, x, Y, **options).values
    torch.testing.assert_close(hessian_top(model, x, Y, chunk_size=chunk_size, **options).values, whole)


def test_ignored_targets_do_not_matter_in_chunks():
    model, x, y = convolutional().double(), X.double(), torch.tensor([-100, -100, 1, 2])
    whole = hessian_top(model, x, y, tol=0.0, steps=30).values
    torch.testing.assert_close(hessian_top(model, x, y, tol=0.0, steps=30, chunk_size=2).values, whole)


def test_a_loss_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="chunk_size=2 would change the value"):
        hessian_top(convolutional(), X, Y, loss=lambda z, y: F.cross_entropy(z, y).square(), chunk_size=2)


@pytest.mark.parametrize("chunk", [1, 8, 12, 256])
@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_a_chunk_does_not_change_a_map(method, chunk):
    model = convolutional()
    found = attribute(model, X, Y, method, chunk=chunk)
    torch.testing.assert_close(found, attribute(model, X, Y, method))


class InPlace(nn.Module):
    """The operation behind the layer works in place."""

    def __init__(self, inplace, output=lambda a: a):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.out = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Linear(144, 3)
        self.layer = Then(self.conv, output)

    def forward(self, x):
        a = self.layer(x)
        a = a["maps"] if isinstance(a, dict) else a[0] if isinstance(a, (tuple, list)) else a
        return self.out(self.relu(a).flatten(1))


class Then(nn.Module):
    def __init__(self, layer, output):
        super().__init__()
        self.inner, self.output = layer, output

    def forward(self, x):
        return self.output(self.inner(x))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("call", [grad_cam, lambda *args, **options: logits_and_maps(*args, **options)[1]])
@pytest.mark.parametrize(
    "output", [lambda a: a, lambda a: (a, None), lambda a: [a], lambda a: {"other": 1, "maps": a}]
)
def test_maps_do_not_see_what_happens_in_place_behind_the_layer(frozen, call, output):
    expected = grad_cam(InPlace(False).eval(), X, Y, layer="conv")
    model = InPlace(True, output).eval().requires_grad_(not frozen)
    torch.testing.assert_close(call(model, X, Y, layer="layer"), expected)


FAMILIES = {
    "alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "squeezenet1_1": 64, "resnet18": 64, "densenet121": 64,
    "googlenet": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64, "regnet_y_400mf": 64, "convnext_tiny": 64, "swin_t": 64,
}  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_of_torchvision_are_those_of_captum(family, frozen):
    torchvision = pytest.importorskip("torchvision")
    captum = pytest.importorskip("captum.attr")
    from faultlines.estimators.attribution.cam import last_convolution

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(family, weights=None, num_classes=5).eval()
    size = FAMILIES[family]
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    layer, target = last_convolution(model, x), torch.tensor([1, 3])
    # captum's own hook keeps what an operation in place overwrites: the layer of a copy without such operations
    expected = captum.LayerGradCam(model, layer).attribute(x, target=target, relu_attributions=True)[:, 0]
    found = grad_cam(model.requires_grad_(not frozen), x, target)
    torch.testing.assert_close(
        found, expected.detach(), rtol=1e-4, atol=1e-5 * max(1e-6, float(expected.max()))
    )


@each
def test_numpy_input_gets_one_line_that_names_it(name):
    with pytest.raises(ValueError, match=r"^x1? is a numpy.ndarray.*torch.from_numpy"):
        ESTIMATORS[name](convolutional(), X.numpy())


@each
def test_inputs_of_another_precision_are_named(name):
    with pytest.raises(ValueError, match=r"x has dtype torch.float64, the model's weights torch.float32"):
        ESTIMATORS[name](convolutional(), X.double())


class MaskedRow(nn.Module):
    """Attention with a query all of whose keys are closed, and what came out of it made finite."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.relu, self.out = nn.Linear(8, 8), nn.ReLU(), nn.Linear(64, 3)
        self.register_buffer("closed", torch.zeros(8, 8).index_fill(0, torch.tensor([2]), -torch.inf))

    def forward(self, x):
        h = self.relu(self.into(x[:, 0]))
        return self.out(((h @ h.mT + self.closed).softmax(-1).nan_to_num() @ h).flatten(1))


@pytest.mark.parametrize(
    "name", [n for n in ESTIMATORS if n not in ("attribute grad_cam", "guided_backprop")]
)
def test_a_masked_row_is_warned_of_at_the_callers_line(name):
    model = MaskedRow().eval()
    assert model(X).isfinite().all()
    with pytest.warns(UserWarning, match="the derivative is NaN") as seen:
        ESTIMATORS[name](model, X)
    assert any(warning.filename == __file__ for warning in seen)


def test_a_parameter_without_an_axis_counts_in_the_kernel():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.weight = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x):
            return self.scale * (x @ self.weight)

    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    slopes = torch.tensor([[1.0, 3.0, 0.0], [3.0, 3.0, 3.0]])  # in the scale, then in the weights
    torch.testing.assert_close(empirical_ntk(Scaled(), x), slopes @ slopes.T)


@pytest.mark.parametrize("y", [Y + 7, Y - 1])
def test_labels_without_a_logit_are_named(y):
    for sharpness in (hessian_top, hessian_trace):
        with pytest.raises(ValueError, match="y has labels from"):
            sharpness(convolutional(), X, y)


def test_labels_of_any_integer_kind_are_one():
    model = convolutional()
    torch.testing.assert_close(hessian_top(model, X, Y.int()).values, hessian_top(model, X, Y).values)
    with pytest.raises(ValueError, match=r"y has shape \(4, 1\)"):
        hessian_top(model, X, Y[:, None])


@pytest.mark.parametrize(
    "penalty", [InputGradient(1.0), CurvaturePenalty(1.0), CurvaturePenalty(1.0, step=None)]
)
@pytest.mark.parametrize("kind", ["module", "function"])
def test_penalties_on_slopes_train_attention_of_torch(penalty, kind):
    model = Attentive(kind)
    loss, _ = penalty(model, X, Y)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
