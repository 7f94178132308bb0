from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from faultlines.estimators import group_accuracy
from faultlines.reporting import wilson_interval


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    y, c = torch.randint(4, (500,), generator=generator), torch.randint(3, (500,), generator=generator)
    prediction = torch.where(torch.rand(500, generator=generator) < 0.3 + 0.2 * c, y, (y + 1) % 4)
    return prediction, y, c


def test_the_table_is_that_of_a_loop(case):
    prediction, y, c = case
    right = defaultdict(list)
    for p, label, background in zip(*(t.tolist() for t in case), strict=True):
        right[label, background].append(p == label)
    found = group_accuracy(prediction, y, c)
    assert [(g.y, g.c) for g in found.groups] == sorted(right)
    for g in found.groups:
        hits = right[g.y, g.c]
        assert (g.correct, g.total) == (sum(hits), len(hits))
        interval = wilson_interval(g.correct, g.total)
        assert (g.low, g.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    rates = {group: sum(hits) / len(hits) for group, hits in right.items()}
    assert found.average == pytest.approx((prediction == y).double().mean().item())
    assert found.worst == min(rates.values()) == rates[found.worst_group.y, found.worst_group.c]
    assert found.worst <= found.average


def test_the_order_of_the_samples_does_not_matter(case):
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert group_accuracy(*(t[order] for t in case)) == group_accuracy(*case)


def test_a_single_group():
    y = torch.tensor([2, 2, 2])
    found = group_accuracy(torch.tensor([2, 2, 0]), y, y)
    assert len(found.groups) == 1
    assert found.average == found.worst == 2 / 3


def test_of_equally_bad_groups_the_larger_is_the_worst():
    y, c = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0])
    assert group_accuracy(1 - y, y, c).worst_group[:4] == (0, 1, 0, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y: group_accuracy(y[:2], y, y), "prediction has 2 entries, y 3 and c 3"),
        (lambda y: group_accuracy(y[:0], y[:0], y[:0]), "prediction has 0 entries"),
        (lambda y: group_accuracy(y.float(), y, y), r"prediction has shape \(3,\) and dtype torch.float32"),
        (lambda y: group_accuracy(y, y[:, None], y), r"y has shape \(3, 1\)"),
        (lambda y: group_accuracy(y, y, y, confidence=1.0), r"confidence=1.0 is not in \(0, 1\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.tensor([0, 1, 2]))
