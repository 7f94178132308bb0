from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import nn

from faultlines.data import GroupedImages
from faultlines.estimators import choose, evaluate_groups, group_accuracy
from faultlines.estimators.groups import wilson
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
    assert found.balanced == pytest.approx(sum(rates.values()) / len(rates))
    assert found.worst <= min(found.average, found.balanced)


@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 9), (5000, 10_000)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_against_scipy(successes, total, confidence):
    theirs = wilson_interval(successes, total, confidence)
    assert wilson(successes, total, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_the_order_of_the_samples_does_not_matter(case):
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert group_accuracy(*(t[order] for t in case)) == group_accuracy(*case)


def test_reweighting_by_the_training_groups(case):
    prediction, y, c = case
    found = group_accuracy(prediction, y, c)
    assert found.reweighted(y, c) == pytest.approx(found.average)
    rate = {(g.y, g.c): g.accuracy for g in found.groups}
    labels, places = torch.tensor([0, 0, 0, 3]), torch.tensor([1, 1, 1, 2])
    assert found.reweighted(labels, places) == pytest.approx(0.75 * rate[0, 1] + 0.25 * rate[3, 2])
    with pytest.raises(ValueError, match=r"no accuracy is known of the groups \(y, c\) \[\(9, 0\)\]"):
        found.reweighted(torch.tensor([9, 0]), torch.tensor([0, 0]))


def test_a_single_group():
    y = torch.tensor([2, 2, 2])
    found = group_accuracy(torch.tensor([2, 2, 0]), y, y)
    assert len(found.groups) == 1
    assert found.average == found.worst == found.balanced == 2 / 3


def test_of_equally_bad_groups_the_larger_is_the_worst():
    y, c = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 0])
    assert group_accuracy(1 - y, y, c).worst_group[:4] == (0, 1, 0, 2)


def test_a_missing_group_is_no_worst_group():
    y, c = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert group_accuracy(y, y, c, expected=[(0, 0)]).worst == 1
    with pytest.raises(
        ValueError, match=r"groups \(y, c\) \[\(0, 1\), \(1, 1\)\] are expected and have no image"
    ):
        group_accuracy(y, y, c, expected=[(a, b) for a in (0, 1) for b in (0, 1)])


def test_a_model_is_evaluated_in_batches_and_left_in_its_mode(case):
    _, y, c = case
    images = GroupedImages(torch.rand(500, 3, 2, 2), y, c, 0 * y, split="validation")
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).train()
    expected = group_accuracy(model(images.x).argmax(1), y, c, split="validation")
    assert evaluate_groups(model, images, batch_size=7) == expected
    assert model.training and all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="holds no image"):
        evaluate_groups(model, images[:0])


def table(right, split="validation"):
    """Two groups of ten images each, so many right."""
    y = torch.arange(2).repeat_interleave(10)
    hit = torch.cat([torch.arange(10) < k for k in right])
    return group_accuracy(torch.where(hit, y, 1 - y), y, 0 * y, split=split)


def test_the_choice():
    runs = {"shortcut": table((10, 4)), "fair": table((6, 6)), "fairer": table((7, 6)), "twin": table((6, 7))}
    assert choose(runs) == "fairer"  # of equal worst groups and equal averages, the first
    assert choose(runs, by="average") == "shortcut"
    assert choose({"only": table((0, 0), "ood_validation")}) == "only"


@pytest.mark.parametrize("split", ["test", "train", ""])
def test_a_choice_that_has_seen_the_test_is_refused(split):
    with pytest.raises(
        ValueError, match=rf"evaluated on \['{split}'\]; a choice may only look at one of \['validation'"
    ):
        choose({"a": table((1, 1), split), "b": table((2, 2), split)})


def test_a_choice_between_different_sets_is_refused():
    with pytest.raises(ValueError, match=r"evaluated on \['ood_validation', 'validation'\]"):
        choose({"a": table((1, 1)), "b": table((1, 1), "ood_validation")})
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="different groups or sizes"):
        choose({"a": table((1, 1)), "b": group_accuracy(y, y, y, split="validation")})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y: choose({}), "candidates is empty"),
        (
            lambda y: choose({"a": table((1, 1))}, by="mean"),
            r"by='mean' is not one of \('average', 'worst'\)",
        ),
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
