"""Every attack on every kind of model that people have: what it returns, where it breaks, what it hides."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.attacks import (
    APGD,
    FAB,
    FGSM,
    MIM,
    PGD,
    AutoAttack,
    CarliniWagnerL2,
    EmbeddingAttack,
    ExplanationNoise,
    ExplanationPGD,
    PatchAttack,
    Square,
    TopK,
)
from faultlines.models import logits_of

CLASSES, N = 5, 6


def saliency(model, x, y):
    """A gradient map that knows every output that `logits_of` knows."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    logits = logits_of(model(x)).gather(1, y[:, None]).sum()
    if not logits.requires_grad:
        return torch.zeros_like(x).sum(dim=1)
    return torch.autograd.grad(logits, x, create_graph=True, materialize_grads=True)[0].sum(dim=1)


PROMPTS = torch.eye(CLASSES)
ATTACKS = {
    "fgsm": lambda eps=0.1: FGSM(eps=eps),
    "pgd": lambda eps=0.1: PGD(eps=eps, steps=3),
    "pgd-l2": lambda eps=0.1: PGD(eps=eps, steps=3, norm="l2", early_stop=True),
    "mim": lambda eps=0.1: MIM(eps=eps, steps=3),
    "apgd-ce": lambda eps=0.1: APGD(eps=eps, steps=5),
    "apgd-dlr": lambda eps=0.1: APGD(eps=eps, steps=5, loss="dlr"),
    "apgd-t": lambda eps=0.1: APGD(eps=eps, steps=5, loss="targeted_dlr", target_classes=2),
    "fab": lambda eps=0.1: FAB(eps=eps, steps=5, target_classes=2),
    "fab-l2": lambda eps=0.1: FAB(eps=eps, steps=5, norm="l2", target_classes=2),
    "square": lambda eps=0.1: Square(eps=eps, queries=20),
    "square-l2": lambda eps=0.1: Square(eps=eps, norm="l2", queries=20),
    "auto": lambda eps=0.1: AutoAttack(eps=eps, steps=3, queries=10, target_classes=2, batch_size=4),
    "carlini-wagner": lambda eps=0.1: CarliniWagnerL2(steps=20, step_size=0.1, search_steps=2, initial_c=1.0),
    "patch": lambda eps=0.1: PatchAttack(size=3, steps=3, eps=eps),
    "embedding": lambda eps=0.1: EmbeddingAttack(PROMPTS, eps=eps, steps=3),
    "explanation": lambda eps=0.1: ExplanationPGD(saliency, TopK(4), eps=eps, steps=3),
    "explanation-noise": lambda eps=0.1: ExplanationNoise(saliency, TopK(4), eps=eps, draws=3),
}
BLIND = {"square", "square-l2", "explanation-noise"}
"""They follow no gradient."""
SATURABLE = {"fgsm", "pgd", "pgd-l2", "mim", "apgd-ce", "patch"}
"""Their loss is the cross-entropy."""

every = pytest.mark.parametrize("name", ATTACKS)


class Net(nn.Module):
    """A smooth network of images of 6 by 6."""

    def __init__(self, *extra):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), *extra, nn.Tanh(), nn.Linear(12, CLASSES))

    def forward(self, x):
        return 2 * self.body(x)


class Wrapped(nn.Module):
    """A network whose output is handed on in another form."""

    def __init__(self, form, net=None):
        super().__init__()
        self.net, self.form = Net() if net is None else net, form

    def forward(self, x):
        return self.form(self.net(x))


@pytest.fixture
def samples():
    x = torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = Net()(x).argmax(dim=1)
    y[0] = (y[0] + 1) % CLASSES
    return x, y


def run(name, model, x, y, eps=0.1):
    """Attack, and let no warning pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ATTACKS[name](eps)(model, x, y, generator=torch.Generator().manual_seed(0))


def same(one, other):
    return all(
        torch.equal(value, getattr(other, field)) if isinstance(value, torch.Tensor) else True
        for field, value in vars(one).items()
    )


FORMS = {
    "tuple": lambda z: (z, z.mean()),
    "list": lambda z: [z],
    "mapping": lambda z: {"loss": z.mean(), "logits": z},
    "mapping of one": lambda z: {"out": z},
    "attribute": lambda z: SimpleNamespace(logits=z, hidden_states=None),
}


@pytest.mark.parametrize("form", FORMS)
@every
def test_logits_in_another_form(name, form, samples):
    assert same(run(name, Net(), *samples), run(name, Wrapped(FORMS[form]), *samples))


@pytest.mark.parametrize("form", [lambda z: z[:, :1], lambda z: z[:, 0]], ids=["n by 1", "n"])
@every
def test_one_logit_is_refused(name, form, samples):
    x, y = samples
    words = "embeddings of shape" if name == "embedding" else r"one a sample.*torch\.cat\(\[torch\.zeros_like"
    with pytest.raises(ValueError, match=words) as caught:
        run(name, Wrapped(form), x, 0 * y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [lambda z: None, lambda z: {"a": z, "b": z}], ids=["none", "two"])
@every
def test_no_logits_are_refused(name, form, samples):
    with pytest.raises(ValueError, match="no logits are to be found"):
        run(name, Wrapped(form), *samples)


@every
def test_a_model_that_writes_into_its_input(name, samples):
    """As torchvision's Normalize(inplace=True) does."""
    x, y = samples
    kept = x.clone()

    def scaled(z):
        return Net()((z - 0.3) / 0.7)

    def writes(z):
        return Net()(z.sub_(0.3).div_(0.7))

    found = run(name, writes, x, y)
    assert torch.equal(x, kept)
    assert same(found, run(name, scaled, x, y))


CUT = {
    "detached": lambda z: z.detach(),
    "argmax": lambda z: F.one_hot(z.argmax(dim=1), CLASSES).to(z),
    "detached, with a bias": lambda z: z.detach() + nn.Parameter(torch.zeros(CLASSES)),
}


@pytest.mark.parametrize("cut", CUT)
@every
def test_no_gradient_is_refused(name, cut, samples):
    model = Wrapped(CUT[cut])
    if name in BLIND:
        run(name, model, *samples)
        return
    with pytest.raises(ValueError, match=r"does not depend on the input.*Square"):
        run(name, model, *samples)


@every
def test_vanishing_gradients_are_warned_about_once(name, samples):
    model = Wrapped(lambda z: 1e4 * z)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ATTACKS[name]()(model, *samples)
    assert len(caught) == (name in SATURABLE)
    for warning in caught:
        assert "loss='margin'" in str(warning.message)
        assert warning.filename == __file__


def test_the_margin_loss_is_the_remedy(samples):
    model = Wrapped(lambda z: 1e4 * z)
    found = PGD(eps=0.3, loss="margin")(model, *samples).success
    with pytest.warns(UserWarning, match="zero at the first point of 5 of 5"):
        lost = PGD(eps=0.3)(model, *samples).success
    assert lost.sum() < found.sum()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every
def test_what_is_not_finite_off_the_clean_point(name, value, samples):
    x, y = samples

    def breaks(z):
        far = torch.tensor([any((row == a).all() for a in x) for row in z])
        return torch.where(far[:, None], Net()(z), value)

    with pytest.raises(ValueError, match="not finite") as caught:
        ATTACKS[name]()(breaks, x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dropout", [F.dropout, lambda z: z + 1e-3 * torch.randn(z.shape)], ids=["dropout", "noise"]
)
@every
def test_randomness_without_a_layer_is_warned_about(name, dropout, samples):
    with pytest.warns(UserWarning, match=r"draws random numbers.*model\.eval\(\)"):
        ATTACKS[name]()(Wrapped(dropout), *samples)


TRAINING = {
    "dropout": lambda: nn.Dropout(0.2),
    "batch norm": lambda: nn.Sequential(nn.Unflatten(1, (1, 12)), nn.BatchNorm1d(1), nn.Flatten()),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(12, 12)),
    "randomised relu": lambda: nn.RReLU(),
}


@pytest.mark.parametrize("kind", TRAINING)
@every
def test_train_mode_is_warned_about_and_changes_nothing(name, kind, samples):
    model = Net(TRAINING[kind]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match=r"train mode with.*model\.eval\(\)"):
        ATTACKS[name]()(model.train(), *samples)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    run(name, model.eval(), *samples)


@every
def test_a_layer_of_ones_own_that_moves_is_warned_about(name, samples):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(12))

        def forward(self, z):
            if self.training:
                self.mean.lerp_(z.detach().mean(dim=0), 0.1)
            return z - self.mean

    model = Net(Mean()).train()
    with pytest.warns(UserWarning, match=r"changes its buffers.*model\.eval\(\)"):
        ATTACKS[name]()(model, *samples)
    assert not model.body[2].mean.any()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@every
def test_labels_of_every_integer(name, dtype, samples):
    x, y = samples
    assert same(run(name, Net(), x, y), run(name, Net(), x, y.to(dtype)))


@pytest.mark.parametrize("y", [torch.zeros(N), torch.zeros(N, 1).long(), torch.zeros(N).bool()])
@every
def test_labels_that_are_none(name, y, samples):
    with pytest.raises(ValueError, match="must be integers of shape"):
        run(name, Net(), samples[0], y)


@pytest.mark.parametrize("eps", [np.float64(0.1), np.float32(0.125), np.int64(1), torch.tensor(0.125)])
@every
def test_numbers_of_numpy(name, eps, samples):
    assert same(run(name, Net(), *samples, eps=eps), run(name, Net(), *samples, eps=float(eps)))


def test_counts_of_numpy(samples):
    assert same(PGD(eps=0.1, steps=np.int64(4))(Net(), *samples), PGD(eps=0.1, steps=4)(Net(), *samples))


@every
def test_a_pixel_one_ulp_above(name, samples):
    x, y = samples
    x[0, 0, 0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    with pytest.raises(ValueError, match=r"to 1\.00000011.*x\.clamp\(0, 1\)"):
        run(name, Net(), x, y)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@every
def test_modes_of_autograd(name, mode, samples):
    x, y = samples
    with mode():
        found = run(name, Net(), x.clone(), y.clone())
        assert same(found, run(name, Net(), x.clone(), y.int()))
    assert torch.allclose(found.x_adv, run(name, Net(), x, y).x_adv, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@every
def test_dtypes(name, dtype, samples):
    """Each finds about what it finds in float32; a robust model it is never taken for."""
    x, y = samples
    x[:, :, 2:4] = (x[:, :, 2:4] > 0.5).float()  # the ends of the box too
    found = run(name, Net().to(dtype), x.to(dtype), y, eps=0.3)
    expected = run(name, Net(), x, y, eps=0.3)
    assert found.x_adv.dtype == dtype
    assert found.x_adv.isfinite().all()
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    if name == "explanation-noise":  # draws are others in another dtype
        return
    assert abs(int(found.success.sum()) - int(expected.success.sum())) <= 1


@every
def test_compiled(name, samples):
    model = Net()
    assert same(run(name, torch.compile(model, backend="eager"), *samples), run(name, model, *samples))


@every
@pytest.mark.parametrize("given", ["x", "y"])
def test_numpy_input_gets_one_line_that_names_it(name, given, samples):
    x, y = samples
    arrays = {"x": (x.numpy(), y), "y": (x, y.numpy())}[given]
    with pytest.raises(ValueError, match=rf"^{given} is a numpy.ndarray.*torch.from_numpy"):
        ATTACKS[name]()(Net(), *arrays)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n != "embedding"])
def test_inputs_of_another_precision_are_named(name, samples):
    x, y = samples
    with pytest.raises(ValueError, match=r"x has dtype torch.float64, the model's weights torch.float32"):
        ATTACKS[name]()(Net(), x.double(), y)


class Masked(nn.Module):
    """Attention with a query all of whose keys are closed, and what came out of it made finite."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(6, 6), nn.Linear(36, CLASSES)
        self.register_buffer("closed", torch.zeros(6, 6).index_fill(0, torch.tensor([2]), -math.inf))

    def forward(self, x):
        h = self.into(x[:, 0])
        return self.out(((h @ h.mT + self.closed).softmax(-1).nan_to_num() @ h).flatten(1))


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in BLIND and "explanation" not in n])
def test_gradients_of_nan_are_refused(name, samples):
    x, _ = samples
    model = Masked().eval()
    y = model(x).argmax(dim=1)
    with pytest.raises(ValueError, match="not finite"):
        ATTACKS[name]()(model, x, y)
