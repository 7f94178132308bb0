"""Lambda among the terms of an objective, and nothing else changed."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from faultlines.models import ViT
from faultlines.training import CrossEntropy, TrackLambda, fit_ensemble

make = partial(ViT, image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)


def data(n=24):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 4, 4, generator=generator), torch.arange(n) % 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(smoothing):
    model, (x, y) = make(attention="differential"), data()
    loss, terms = TrackLambda(smoothing)(model, x, y)
    alone, own = CrossEntropy(smoothing)(model, x, y)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    assert set(terms) == {*own, "lambda 0", "lambda 1"}
    assert not terms["lambda 0"].requires_grad


def test_softmax_has_no_lambda():
    _, terms = TrackLambda()(make(), *data())
    assert list(terms) == ["cross_entropy"]


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_history_holds_lambda_of_every_member(vectorize):
    network = partial(make, attention="differential", attention_options={"lambda_init": 0.6})
    trained = fit_ensemble(
        network, *data(), seeds=[0, 1], arms={"": TrackLambda()}, epochs=3, batch_size=8, lr=0.01,
        vectorize=vectorize,
    )  # fmt: skip
    for model, history in zip(trained[""], trained.histories[""], strict=True):
        last = model.blocks[1].attention.mechanism.lambda_value().item()
        logged = history.terms["lambda 1"]
        assert len(logged) == 3
        assert (
            abs(logged[0] - 0.6) < 0.3
        )  # the four vectors are drawn, so lambda does not begin at lambda_init
        assert abs(logged[-1] - last) < 0.05  # the epoch's mean, and the schedule ends at a rate of zero
    first, second = (history.terms["lambda 0"] for history in trained.histories[""])
    assert first != second
