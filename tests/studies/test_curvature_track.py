from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from faultlines.estimators.curvature import hessian_top, hessian_trace, input_curvature
from faultlines.models import MLP
from faultlines.studies.network_curvature import CurvatureTrack
from faultlines.training import Objective, fit, seeded

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}
PLAIN |= {"grad_clip": None}


def net(**options):
    return MLP(image_shape=(1, 3, 3), classes=3, widths=(12,), activation="gelu", **options)


def data(n=40):
    x = torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return x, x.flatten(1)[:, :3].argmax(1)


def test_what_is_logged_is_what_the_estimators_say_of_the_network_at_that_epoch():
    x, y = data()
    seen, track = [], CurvatureTrack(x, y, every=2, probes=3, input_samples=10)
    fit(
        seeded(lambda: net(norm="hidden"), 0),
        x,
        y,
        epochs=5,
        batch_size=10,
        lr=0.1,
        callbacks=[track, lambda state: seen.append(copy.deepcopy(state.model))],
        **PLAIN,
    )
    assert track.series("epoch") == [1, 2, 4]
    for row, model in zip(track.rows, (seen[0], seen[1], seen[3]), strict=True):
        top, trace = hessian_top(model, x, y), hessian_trace(model, x, y, probes=3)
        found = input_curvature(model, x[:10], y[:10])
        assert row["top"] == pytest.approx(top.values.item(), rel=1e-5)
        assert row["lowest"] == pytest.approx(top.lowest.item(), rel=1e-3, abs=1e-5)
        assert row["trace"] == pytest.approx(trace.mean.item(), rel=1e-4)
        assert row["trace_error"] == pytest.approx(trace.standard_error.item(), rel=1e-4)
        assert row["input_relative"] == pytest.approx(found.relative.median().item(), rel=1e-4)
        assert row["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert track.seconds > 0


def test_tracking_does_not_change_the_training():
    x, y = data()
    runs = []
    for callbacks in ([], [CurvatureTrack(x, y, probes=2)]):
        model = seeded(lambda: net(norm="hidden"), 0)
        history = fit(model, x, y, epochs=3, batch_size=10, lr=0.1, callbacks=callbacks, **PLAIN)
        runs.append((history.loss, [p.tolist() for p in model.parameters()]))
    assert runs[0] == runs[1]


def test_full_batch_descent_settles_at_two_over_the_step_size():
    """Square loss on targets of size one: progressive sharpening up to 2 / lr, and no further."""
    x, y = data(30)
    lr = 0.4

    def mse(out, target):
        return (out - F.one_hot(target, 3)).square().sum(1).mean()

    class Square(Objective):
        def __call__(self, model, x, y):
            return mse(model(x), y), {}

    track = CurvatureTrack(x, y, every=50, loss=mse)
    fit(
        seeded(lambda: net(), 0),
        x,
        y,
        epochs=2000,
        batch_size=30,
        lr=lr,
        objective=Square(),
        callbacks=[track],
        **PLAIN,
    )
    late = torch.tensor(track.series("top")[-10:])
    assert track.series("top")[0] < 0.8 * 2 / lr
    assert (late / (2 / lr) - 1).abs().max() < 0.25


def test_bad_arguments_are_named():
    x, y = data()
    for options, message in (
        ({"every": 0}, "every=0"),
        ({"probes": -1}, "probes=-1"),
        ({"input_samples": 41}, "input_samples=41 exceeds the number of samples, 40"),
    ):
        with pytest.raises(ValueError, match=message):
            CurvatureTrack(x, y, **options)
    track = CurvatureTrack(x, y)
    fit(net(), x, y, epochs=1, batch_size=10, callbacks=[track])
    with pytest.raises(ValueError, match="name='trace' is not one of"):
        track.series("trace")
