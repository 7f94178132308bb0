"""Every estimator on what users bring: outputs, modes, compiled networks, attention of torch's own."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.attacks import ExplanationPGD, TopK
from faultlines.estimators import (
    attention_focus,
    attribute,
    empirical_ntk,
    finite_relu_ntk,
    grad_cam,
    hessian_top,
    hessian_trace,
    input_curvature,
    jacobian_norm,
    layer_gradients,
    layer_lipschitz,
    local_lipschitz,
    logit_jacobian_norm,
    logits_and_maps,
    loo_influence,
    margin_gradient,
    relu_ntk,
)
from faultlines.models import ViT, record, record_attention
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


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def in_part(model, backend):
    model[0] = torch.compile(model[0], backend=backend)
    return model


COMPILED = {
    "whole": lambda model, backend: torch.compile(model, backend=backend),
    "in place": in_place,
    "in part": in_part,
}
EXPLAIN = partial(attribute, method="gradient", create_graph=True)
"""What takes a second derivative, or sets hooks."""
TWICE = {
    "hessian_top": ESTIMATORS["hessian_top"],
    "hessian_trace": ESTIMATORS["hessian_trace"],
    "input_curvature": ESTIMATORS["input_curvature"],
    "grad_cam": lambda model, x: grad_cam(model, x, Y, layer="0"),
    "gradient": lambda model, x: attribute(model, x.clone().requires_grad_(), Y, create_graph=True).detach(),
    "InputGradient": lambda model, x: InputGradient(1.0)(model, x, Y)[0].detach(),
    "CurvaturePenalty": lambda model, x: CurvaturePenalty(1.0, step=None)(model, x, Y)[0].detach(),
    "explanation attack": lambda model, x: (
        ExplanationPGD(EXPLAIN, TopK(5), eps=0.1, steps=2)(model, x, Y).x_adv
    ),
    "explanation attack through softplus": lambda model, x: (
        ExplanationPGD(EXPLAIN, "cosine", eps=0.1, steps=2, surrogate_beta=20.0)(model, x, Y).x_adv
    ),
}


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("name", TWICE)
def test_a_compiled_network_has_second_derivatives(name, kind):
    model = convolutional()
    expected = TWICE[name](model, X)
    torch._dynamo.reset()
    torch.testing.assert_close(TWICE[name](COMPILED[kind](convolutional(), "aot_eager"), X), expected)


def test_a_layer_may_be_named_as_the_compiled_network_names_it():
    compiled = torch.compile(convolutional(), backend="eager")
    name = next(name for name, layer in compiled.named_modules() if isinstance(layer, nn.Conv2d))
    assert name.startswith("_orig_mod.")
    torch.testing.assert_close(
        grad_cam(compiled, X, Y, layer=name), grad_cam(convolutional(), X, Y, layer="0")
    )


TRANSFORMER = {
    "image_size": 8,
    "patch_size": 4,
    "channels": 1,
    "classes": 3,
    "dim": 8,
    "depth": 2,
    "heads": 2,
}
INSIDE = torch.arange(64).view(1, 8, 8).expand(4, 8, 8) % 3 == 0
OF_MAPS = {
    "raw_attention": lambda model, x: attribute(model, x, Y, "raw_attention"),
    "rollout": lambda model, x: attribute(model, x, Y, "rollout"),
    "gradient_rollout": lambda model, x: attribute(model, x, Y, "gradient_rollout"),
    "attention_focus": lambda model, x: attention_focus(model, x, INSIDE),
    "layer_gradients": lambda model, x: layer_gradients(model, x).frobenius,
    "grad_cam": lambda model, x: grad_cam(model, x, Y, layer="inner.patch"),
}


class Handed(nn.Module):
    """A transformer, and what is done to its logits."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.form = ViT(**TRANSFORMER), form
        self.pool = self.inner.pool

    def forward(self, x):
        return self.form(self.inner(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OF_MAPS)
def test_maps_of_a_model_that_returns_more_than_logits(name, form):
    found = OF_MAPS[name](Handed(FORMS[form]).eval(), X)
    torch.testing.assert_close(found, OF_MAPS[name](Handed(lambda z: z).eval(), X))


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.BatchNorm1d(3), nn.RReLU()], ids=lambda layer: type(layer).__name__
)
@pytest.mark.parametrize("name", OF_MAPS)
def test_maps_are_refused_in_training_mode_and_move_nothing(name, layer):
    model = Handed(layer).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"in training mode, .*call model.eval\(\) first"):
        OF_MAPS[name](model, X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", OF_MAPS)
def test_maps_of_a_model_that_draws_are_refused(name):
    with pytest.raises(ValueError, match="draws random numbers"):
        OF_MAPS[name](Handed(lambda z: F.dropout(z, 0.5)).eval(), X)


@pytest.mark.parametrize("name", OF_MAPS)
def test_maps_of_inputs_of_another_precision_are_named(name):
    with pytest.raises(ValueError, match=r"x has dtype torch.float64, the model's weights torch.float32"):
        OF_MAPS[name](Handed(lambda z: z).eval(), X.double())


@pytest.mark.parametrize(
    "change", [nn.Dropout(0.5, inplace=True), lambda maps: maps.mul_(0)], ids=["dropout", "product"]
)
def test_a_map_that_is_changed_in_place_behind_the_record_is_refused(change):
    class Mine(nn.Module):
        def forward(self, x):
            maps = x.softmax(dim=-1)
            record_attention(maps)
            return change(maps)

    with pytest.raises(ValueError, match="changed in place after it was recorded"), record():
        Mine()(X)
    with torch.inference_mode(), record() as tape:
        nn.Identity()(record_attention(X.softmax(dim=-1)))
    assert len(tape.maps) == 1


def test_readings_of_a_network_without_blocks_are_named():
    with pytest.raises(ValueError, match="need a model with tokens and blocks"):
        layer_lipschitz(convolutional(), X, 0.1)


SCALARS = {
    "smoothgrad": lambda n, x: attribute(convolutional(), X, n(1), "smoothgrad", samples=n(3), chunk=n(4)),
    "integrated_gradients": lambda n, x: attribute(
        convolutional(), X, n(1), "integrated_gradients", steps=n(4)
    ),
    "jacobian_norm": lambda n, x: jacobian_norm(convolutional(), X, steps=n(5), tol=x(0.01)),
    "local_lipschitz": lambda n, x: (
        local_lipschitz(convolutional(), X, x(0.125), directions=n(2), ascent_steps=n(2)).ascent
    ),
    "input_curvature": lambda n, x: input_curvature(convolutional(), X, Y, steps=n(4), chunk_size=n(3)).norm,
    "hessian_top": lambda n, x: (
        hessian_top(convolutional(), X, Y, k=n(1), steps=n(9), chunk_size=n(3)).values
    ),
    "hessian_trace": lambda n, x: hessian_trace(convolutional(), X, Y, probes=n(2), chunk_size=n(3)).mean,
    "empirical_ntk": lambda n, x: empirical_ntk(convolutional(), X, chunk=n(3)),
    "relu_ntk": lambda n, x: relu_ntk(X.flatten(1), block=n(3)),
    "finite_relu_ntk": lambda n, x: finite_relu_ntk(X.flatten(1), weight=X.flatten(1), block=n(3)),
    "loo_influence": lambda n, x: loo_influence(
        X.flatten(1) @ X.flatten(1).T,
        X.flatten(1)[:2] @ X.flatten(1).T,
        Y.float(),
        x(0.125),
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_numbers_of_numpy_are_numbers(name):
    import numpy as np

    expected = SCALARS[name](int, float)
    for kinds in ((np.int64, np.float64), (np.int32, np.float32)):
        found = SCALARS[name](*kinds)
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-4, atol=1e-6)


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


def of_samples(statistic):
    return lambda z, y: statistic(F.cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("statistic", [torch.max, torch.median, lambda v: v.logsumexp(0), torch.min])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_a_loss_that_looks_at_some_samples_is_refused_in_chunks(statistic, chunk_size):
    for sharpness in (hessian_top, hessian_trace):
        with pytest.raises(ValueError, match=f"chunk_size={chunk_size} would change the value"):
            sharpness(convolutional(), X, Y, loss=of_samples(statistic), chunk_size=chunk_size)


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
