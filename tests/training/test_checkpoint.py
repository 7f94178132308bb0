"""Checkpoints that the environment asks for: an interrupted notebook goes on from the training it had done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.training import CrossEntropy, fit, fit_ensemble, seeded
from faultlines.training.checkpoint import FOLDER


def data(n=40):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def make():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class Killed(Exception):
    """Stands for the signal that ends a job."""


class Dying(CrossEntropy):
    """Cross-entropy that dies at a step, and is named like cross-entropy."""

    left = 0

    def __call__(self, model, x, y):
        Dying.left -= 1
        if Dying.left == 0:
            raise Killed
        return super().__call__(model, x, y)


def same(a, b):
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def train(objective, seed=0, **settings):
    x, y = data()
    model = seeded(make, seed)
    history = fit(
        model, x, y, **({"epochs": 6, "batch_size": 10, "objective": objective, "seed": seed} | settings)
    )
    return model, history


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    train(CrossEntropy())
    assert not list(tmp_path.iterdir())


def test_a_killed_training_goes_on_where_it_was(tmp_path, monkeypatch):
    whole, _ = train(Dying())
    monkeypatch.setenv(FOLDER, str(tmp_path))
    Dying.left = 15  # of 24 steps: in the fourth epoch
    with pytest.raises(Killed):
        train(Dying())
    assert len(list(tmp_path.iterdir())) == 1
    Dying.left = 0
    resumed, history = train(Dying())
    assert Dying.left == -13  # a look at the first step and three epochs of four, not six
    assert same(resumed, whole)
    assert len(history.loss) == 6 and history.seconds > 0


def test_a_finished_training_is_not_repeated_and_keeps_its_time(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first, told = train(CrossEntropy())
    again, retold = train(CrossEntropy())
    assert same(first, again) and retold.loss == told.loss
    assert told.seconds > 0 and retold.seconds == pytest.approx(told.seconds, abs=0.5)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"epochs": 5}, {"lr": 1e-3}, {"objective": CrossEntropy(label_smoothing=0.1)}]
)
def test_another_run_has_a_file_of_its_own(tmp_path, monkeypatch, other):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    train(CrossEntropy())
    train(**({"objective": CrossEntropy()} | other))
    assert len(list(tmp_path.iterdir())) == 2


def test_other_validation_data_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    x, y = data(20)
    _, one = train(CrossEntropy(), validation=(x, y))
    _, two = train(CrossEntropy(), validation=(x, (y + 1) % 3))
    assert one.validation_accuracy != two.validation_accuracy


def test_a_callback_sees_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for _ in range(2):
        seen = []
        train(CrossEntropy(), callbacks=[lambda state, seen=seen: seen.append(state.epoch)])
        assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_an_ensemble_has_what_was_trained_before_the_end(tmp_path, monkeypatch, vectorize):
    x, y = data()

    def ensemble(**more):
        arms = {"plain": CrossEntropy(), **more}
        return fit_ensemble(make, x, y, seeds=[0, 1], arms=arms, vectorize=vectorize, epochs=2, batch_size=10)

    plain = ensemble()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    ensemble()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    more = {"smooth": CrossEntropy(label_smoothing=0.1)} if vectorize == "never" else {}
    both = ensemble(**more)
    assert all(same(a, b) for a, b in zip(plain["plain"], both["plain"], strict=True))
    assert {path: path.stat().st_mtime_ns for path in written} == written  # read, not made again
    assert both.histories["plain"][0].loss == plain.histories["plain"][0].loss


class Switched(nn.Module):
    """Equal weights under every switch; only what it computes tells them apart."""

    def __init__(self, scale=1.0, activation=torch.relu, dropout=0.0, frozen=False):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale, self.activation, self.drop, self.frozen = scale, activation, nn.Dropout(dropout), frozen

    def forward(self, x):
        hidden = self.drop(self.activation(self.first(x)))
        return self.last(self.scale * (hidden.detach() if self.frozen else hidden))


SWITCHES = [{"scale": 2.0}, {"activation": torch.tanh}, {"dropout": 0.5}, {"frozen": True}]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch)))
@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_networks_that_differ_in_a_switch_only_are_not_mixed_up(tmp_path, monkeypatch, switch, vectorize):
    if vectorize == "always" and "dropout" in switch:
        pytest.skip("dropout is not trained at once")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    x, y = data()

    def train_one(**options):
        arms = {"": CrossEntropy()}
        make_one = lambda: Switched(**options)  # noqa: E731
        trained = fit_ensemble(
            make_one, x, y, seeds=[0], arms=arms, vectorize=vectorize, epochs=2, batch_size=10
        )
        return trained[""][0]

    plain, other = train_one(), train_one(**switch)
    assert len(list(tmp_path.iterdir())) == 2
    assert not same(plain, other)
