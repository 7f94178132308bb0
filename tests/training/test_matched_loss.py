from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.data import load
from faultlines.models import MLP
from faultlines.training import Cell, grid, seeded, training_loss
from faultlines.training.matched_loss import fit_matched


def net():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def data(n=48):
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


OPTIONS = {"seeds": [0, 1], "stop_at_loss": 0.3, "epochs": 60}


def test_a_grid_is_all_combinations():
    cells = grid(lr=[0.1, 1.0], batch_size=[8, 16], momentum=[0.0, 0.9])
    assert len(cells) == len(set(map(str, cells))) == 8
    assert cells[0] == Cell(0.1, 8, 0.0) and cells[-1] == Cell(1.0, 16, 0.9)


def test_matched_missed_and_diverged_runs_are_told_apart():
    x, y = data()
    cells = [Cell(0.5, 8), Cell(0.1, 8, 0.9), Cell(1e-5, 8), Cell(1e30, 8)]
    runs = fit_matched(net, x, y, cells=cells, **OPTIONS)
    assert [(run.cell, run.seed) for run in runs] == [(cell, seed) for cell in cells for seed in (0, 1)]
    assert runs.complete() == cells[:2]
    for run in runs[0], runs[1], runs[2], runs[3]:
        loss = training_loss(run.model, x, y)
        assert run.reached and loss <= 0.3
        assert loss == pytest.approx(run.history.training_loss[-1], rel=1e-5)
        assert not run.model.training
    assert [run.cell for run in runs.missed()] == [cells[2]] * 2 + [cells[3]] * 2
    slow, diverged = runs.of(cells[2])[0], runs.of(cells[3])[0]
    assert slow.why.startswith("the training loss is 1.") and slow.why.endswith("after 60 epochs, above 0.3")
    assert diverged.why.startswith("it diverged: loss is ") and diverged.history is None
    for run in (slow, diverged):
        with pytest.raises(ValueError, match="with seed 0 has no matched network: "):
            _ = run.model
        assert isinstance(run.unmatched, nn.Module)


def test_a_cell_with_one_seed_missing_is_not_complete():
    x, y = data()
    runs = fit_matched(net, x, y, cells=[Cell(0.1, 8)], **OPTIONS | {"stop_at_loss": 1e-9})
    steps = [run.history.training_loss[0] for run in runs]
    threshold = sum(steps) / 2  # between the two seeds' losses after the first epoch
    assert steps[0] != steps[1]
    runs = fit_matched(net, x, y, cells=[Cell(0.1, 8)], **OPTIONS | {"stop_at_loss": threshold, "epochs": 1})
    assert [run.reached for run in runs].count(True) == 1 and runs.complete() == []


def test_cells_share_initial_weights_and_training_is_plain_sgd():
    x, y = data()
    (run,) = fit_matched(net, x, y, cells=[Cell(0.3, 48)], seeds=[4], stop_at_loss=1e-9, epochs=3)
    plain = seeded(net, 4).train()
    for _ in range(3):
        plain.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        with torch.no_grad():
            for p in plain.parameters():
                p -= 0.3 * p.grad
    for ours, theirs in zip(run.unmatched.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_folder_keeps_every_run(tmp_path):
    x, y = data()
    cells = grid(lr=[0.2, 0.5], batch_size=[8])
    first = fit_matched(net, x, y, cells=cells[:1], folder=tmp_path, **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lr0.2-batch8-momentum0-seed0.pt",
        "lr0.2-batch8-momentum0-seed1.pt",
    ]
    both = fit_matched(net, x, y, cells=cells, folder=tmp_path, **OPTIONS)
    assert [run.history for run in both.of(cells[0])] == [run.history for run in first]
    for old, new in zip(first, both.of(cells[0]), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(old.model.parameters(), new.model.parameters(), strict=True)
        )


def test_digits_with_normalisation_come_to_a_loss_at_very_different_steps():
    task = load("digits", n_train=400)

    def make():
        return MLP(image_shape=(1, 8, 8), classes=10, widths=(32, 32), norm="hidden")

    runs = fit_matched(
        make,
        task.x_train,
        task.y_train,
        cells=grid(lr=[0.05, 0.5]),
        seeds=[0],
        stop_at_loss=0.05,
        stop_every=5,
        epochs=60,
    )
    slow, fast = runs
    assert runs.complete() == [slow.cell, fast.cell]
    assert slow.history.stopped_at > 3 * fast.history.stopped_at


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": []}, r"cells=\[\] must be distinct"),
        ({"cells": [Cell(0.1), Cell(0.1)]}, "cells="),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\] must be distinct"),
        ({"cells": [Cell(0.1), Cell(0.0)]}, r"lr=0\.0 must be a positive number"),
        ({"cells": [Cell(0.1, 49)]}, "batch_size=49 exceeds the number of samples, 48"),
        ({"cells": [Cell(0.1, 8, 1.0)]}, r"momentum=1\.0 must lie in"),
        ({"stop_at_loss": -1.0}, r"stop_at_loss=-1\.0"),
        ({"stop_every": 0}, "stop_every=0"),
    ],
)
def test_bad_input_is_named_before_any_training(change, message):
    with pytest.raises(ValueError, match=message):
        fit_matched(net, *data(), **({"cells": [Cell(0.1)]} | OPTIONS | change))
