"""Seconds of a training step: work that is doubled costs more, in whatever order, and nothing else is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.studies import step_seconds
from faultlines.training import Objective


@dataclass(frozen=True)
class Often(Objective):
    """Cross-entropy, computed several times over."""

    times: int

    def __call__(self, model, x, y):
        loss = sum(F.cross_entropy(model(x), y) for _ in range(self.times)) / self.times
        return loss, {"cross_entropy": loss}


def make():
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def test_ten_times_the_work_is_several_times_the_seconds(monkeypatch, tmp_path):
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))
    x, y = torch.rand(64, 64), torch.arange(64) % 10
    found = step_seconds(make, x, y, {"once": None, "again": Often(1), "ten": Often(10)}, repeats=15)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ("once", "again", "ten"), 15
    )
    assert 3 < np.median(found["ten"] / found["once"]) < 30
    assert 0.5 < np.median(found["again"] / found["once"]) < 2
    assert os.environ["FAULTLINES_CHECKPOINTS"] == str(tmp_path)  # still there, and nothing kept in it
    assert not list(tmp_path.iterdir())


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="repeats=0"):
        step_seconds(make, torch.rand(2, 64), torch.zeros(2).long(), {"plain": None}, repeats=0)
