from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.training import CrossEntropy, fit, fit_ensemble, seeded, training_loss

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}
PLAIN |= {"grad_clip": None, "batch_size": 10, "lr": 0.2}


def net():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def data(n=45):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def evaluated(model, x, y):
    with torch.no_grad():
        return F.cross_entropy(copy.deepcopy(model).eval()(x), y).item()


def plain_losses(steps, seed=3):
    """The training loss after every step of a loop written out here."""
    x, y = data()
    model, losses = seeded(net, 0), []
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while len(losses) < steps:
            for index in torch.randperm(len(x), generator=order).split(10):
                model.train()
                model.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.2 * p.grad
                losses.append(evaluated(model, x, y))
    return losses


@pytest.mark.parametrize(("every", "looks_at"), [(None, 5), (1, 1), (7, 7)])
def test_training_ends_at_the_first_look_at_or_below_the_loss(every, looks_at):
    x, y = data()
    expected = plain_losses(300)
    looks = expected[looks_at - 1 :: looks_at]
    threshold = 0.35
    first = next(i for i, loss in enumerate(looks) if loss <= threshold)
    model = seeded(net, 0)
    history = fit(model, x, y, epochs=60, seed=3, stop_at_loss=threshold, stop_every=every, **PLAIN)
    assert history.stopped_at == (first + 1) * looks_at
    assert history.training_step == list(range(looks_at, history.stopped_at + 1, looks_at))
    assert history.training_loss == pytest.approx(looks[: first + 1], rel=1e-4)
    assert history.training_loss[-1] <= threshold < min(history.training_loss[:-1], default=math.inf)
    assert evaluated(model, x, y) == pytest.approx(
        history.training_loss[-1], rel=1e-6
    )  # this network, not a later
    assert len(history.loss) == math.ceil(history.stopped_at / 5)
    assert not model.training


def test_a_loss_that_is_not_reached_is_said_so():
    x, y = data()
    history = fit(seeded(net, 0), x, y, epochs=3, stop_at_loss=1e-6, **PLAIN)
    assert history.stopped_at is None
    assert len(history.loss) == len(history.training_loss) == 3
    assert min(history.training_loss) > 1e-6
    without = fit(seeded(net, 0), x, y, epochs=3, **PLAIN)
    assert without.loss == history.loss  # looking changes nothing
    assert without.training_loss == [] and without.stopped_at is None


def test_an_interrupted_run_ends_where_the_whole_one_does(tmp_path):
    x, y = data()
    run = {"epochs": 60, "seed": 3, "stop_at_loss": 0.35, "stop_every": 4, **PLAIN}
    whole = seeded(net, 0)
    expected = fit(whole, x, y, **run)

    def interrupt(state):
        if state.epoch == 3:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(seeded(net, 0), x, y, checkpoint=path, callbacks=[interrupt], **run)
    for _ in range(2):  # to its end, and once more from there, where nothing is left to do
        model = seeded(net, 9)
        history = fit(model, x, y, checkpoint=path, **run)
        assert (history.stopped_at, history.training_loss) == (expected.stopped_at, expected.training_loss)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"stop_at_loss: '0\.35' there, '0\.3' here"):
        fit(seeded(net, 0), x, y, checkpoint=path, **(run | {"stop_at_loss": 0.3}))


def test_training_loss_leaves_modes_and_statistics_alone():
    x, y = data()
    model = seeded(net, 0)
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    assert training_loss(model, x, y) == pytest.approx(evaluated(model, x, y), rel=1e-6)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    large = x.repeat(60, 1)  # more than one piece
    assert training_loss(model, large, y.repeat(60)) == pytest.approx(evaluated(model, x, y), rel=1e-5)


def test_members_that_stop_apart_are_trained_apart():
    x, y = data()
    options = {"seeds": [0, 1], "arms": {"plain": CrossEntropy()}, "epochs": 80, "stop_at_loss": 0.5, **PLAIN}

    def make():
        return nn.Linear(6, 3)

    trained = fit_ensemble(make, x, y, **options)
    steps = [history.stopped_at for history in trained.histories["plain"]]
    assert not trained.vectorized and None not in steps and steps[0] != steps[1]
    with pytest.raises(ValueError, match="cannot train members that each stop at a step of their own"):
        fit_ensemble(make, x, y, vectorize="always", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stop_at_loss": 0.0}, r"stop_at_loss=0\.0 must be a positive number"),
        ({"stop_at_loss": math.nan}, "stop_at_loss=nan"),
        ({"stop_every": 5}, "stop_every=5 needs stop_at_loss"),
        ({"stop_at_loss": 0.1, "stop_every": 0}, "stop_every=0 must be an integer"),
        ({"stop_at_loss": 0.1, "stop_every": 2.0}, r"stop_every=2\.0 must be an integer"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        fit(net(), *data(), epochs=1, **PLAIN, **change)
