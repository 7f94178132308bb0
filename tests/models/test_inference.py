"""Running anyone's model: what it returns, what must not change, what rolls dice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from faultlines.models import frozen, logits_of, unsteady_layers

Z = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "output",
    [Z, (Z, None), [Z], {"logits": Z, "aux": Z + 1}, {"out": Z}, SimpleNamespace(logits=Z), ({"logits": Z},)],
)
def test_logits_are_found(output):
    assert logits_of(output) is Z


@pytest.mark.parametrize("output", [None, (), {}, {"a": Z, "b": Z}, "logits", 3.0, SimpleNamespace(scores=Z)])
def test_no_logits(output):
    with pytest.raises(ValueError, match="no logits are to be found"):
        logits_of(output)


UNSTEADY = {
    "dropout": nn.Dropout(0.1),
    "alpha dropout": nn.AlphaDropout(0.1),
    "batch norm": nn.BatchNorm1d(4),
    "instance norm": nn.InstanceNorm1d(4, track_running_stats=True),
    "attention": nn.MultiheadAttention(4, 1, dropout=0.1),
    "lstm": nn.LSTM(4, 4, num_layers=2, dropout=0.1),
    "rrelu": nn.RReLU(),
    "spectral": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    "old spectral": nn.utils.spectral_norm(nn.Linear(4, 4)),
}
STEADY = {
    "dropout of nothing": nn.Dropout(0.0),
    "layer norm": nn.LayerNorm(4),
    "instance norm": nn.InstanceNorm1d(4),
    "attention": nn.MultiheadAttention(4, 1),
}


@pytest.mark.parametrize("layer", UNSTEADY.values(), ids=UNSTEADY)
def test_unsteady_in_train_mode_only(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    assert len(unsteady_layers(model.train())) == 1
    assert not unsteady_layers(model.eval())
    assert not unsteady_layers(lambda z: model(z))


@pytest.mark.parametrize("layer", STEADY.values(), ids=STEADY)
def test_steady(layer):
    assert not unsteady_layers(nn.Sequential(layer).train())


@pytest.mark.parametrize("kind", ["batch norm", "spectral", "old spectral"])
def test_frozen_leaves_buffers_alone(kind):
    model = nn.Sequential(nn.Linear(4, 4), UNSTEADY[kind]).train()
    own = dict(model.named_buffers())
    before = {name: buffer.clone() for name, buffer in own.items()}
    with frozen(model):
        model(torch.rand(5, 4, generator=torch.Generator().manual_seed(0)))
    after = dict(model.named_buffers())
    assert all(after[name] is buffer for name, buffer in own.items())
    assert all(torch.equal(after[name], value) for name, value in before.items())
