from __future__ import annotations

import pytest
import torch
from scipy import stats

from faultlines.estimators.malleability import (
    curated,
    flip_rate,
    most_influential,
    rank_correlation,
    top_overlap,
)


def influences(n=30, t=4, seed=0):
    return torch.randn(n, t, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rank_by", ["absolute", "signed"])
def test_flips_counted_by_hand(rank_by):
    before, after = influences(), influences(seed=1)
    found = flip_rate(before, after, share=0.2, rank_by=rank_by)
    for t in range(4):
        column = before[:, t].abs() if rank_by == "absolute" else before[:, t]
        top = column.argsort(descending=True)[:6].tolist()
        assert float(found[t]) == pytest.approx(sum(float(before[i, t] * after[i, t]) < 0 for i in top) / 6)


def test_aggregated_flips_compare_sums():
    before = torch.tensor([[3.0, -1.0], [0.5, 0.5], [-4.0, 0.0]])
    after = torch.tensor([[-3.0, 1.0], [0.5, 0.5], [-4.0, 0.0]])
    assert float(flip_rate(before, after, share=0.67, mode="aggregated")) == 0.5
    assert float(flip_rate(before, after, share=0.3, mode="aggregated")) == 0.0


def test_flips_at_the_ends():
    x = influences()
    assert flip_rate(x, x).max() == 0 and flip_rate(x, -x).min() == 1
    assert flip_rate(x, torch.zeros_like(x)).min() == 1


def test_rank_correlation_is_scipys():
    before, after = influences(), influences(seed=1)
    after[3] = after[5]  # a tie in every column
    expected = [stats.spearmanr(before[:, t], after[:, t]).statistic for t in range(4)]
    assert rank_correlation(before, after).tolist() == pytest.approx(expected, abs=1e-12)


def test_overlap_and_most_influential():
    x = influences()
    assert top_overlap(x, -x).tolist() == [1.0] * 4
    other = x.clone()
    other[x.abs().argmax(dim=0)[0], 0] = 0
    assert top_overlap(x, other, share=0.1)[0] == pytest.approx(2 / 3)
    sizes = x.abs().mean(dim=1)
    assert most_influential(x, 0.2).tolist() == sizes.argsort(descending=True)[:6].tolist()
    assert curated(5, torch.tensor([4, 0])).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: flip_rate(x, x[:3]), "both must be"),
        (lambda x: flip_rate(x, x, share=0.0), "share=0.0 must lie in"),
        (lambda x: flip_rate(x, x, mode="all"), "mode='all' is not one of"),
        (lambda x: flip_rate(x, x, rank_by="size"), "rank_by='size' is not one of"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(influences())
