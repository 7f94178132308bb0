from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.regression import kendall_rank_corrcoef, spearman_corrcoef

from faultlines.estimators.similarity import (
    FINITE,
    average_ranks,
    cosine,
    inversions,
    kendall_tau,
    order_codes,
    spearman,
    tied_pairs,
    topk_intersection,
)

RANKED = [(kendall_tau, stats.kendalltau), (spearman, stats.spearmanr)]
PAIRWISE = [
    kendall_tau,
    spearman,
    cosine,
    lambda a, b: topk_intersection(a, b, 3),
]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(kind: str, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    a = noise(6, n, dtype=dtype)
    b = a + noise(6, n, seed=1, dtype=dtype)
    return {
        "continuous": (a, b),
        "ties in one": (a.clamp_min(0), b),
        "ties in both": ((2 * a).round(), (2 * b).round()),
        "two values": (a.sign(), b.sign()),
        "signed zeros": (torch.where(a > 0, a, -0.0 * a), torch.where(b > 0, b, 0 * b)),
    }[kind]


KINDS = ["continuous", "ties in one", "ties in both", "two values", "signed zeros"]


@pytest.mark.parametrize(("ours", "theirs"), RANKED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 64, 65, 100, 784])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_rank_correlations_are_scipys(ours, theirs, kind: str, n: int, dtype: torch.dtype) -> None:
    a, b = pair(kind, n, dtype)
    expected = torch.tensor(
        [theirs(*both).statistic for both in zip(a.numpy(), b.numpy(), strict=True)], dtype=torch.float64
    )
    found = ours(a, b)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-7, equal_nan=True)


def test_rank_correlations_are_torchmetrics() -> None:
    a, b = (m[:, :60] for m in pair("continuous", 100, torch.float32))
    torch.testing.assert_close(kendall_tau(a, b), kendall_rank_corrcoef(a.T, b.T), rtol=0, atol=1e-6)
    torch.testing.assert_close(spearman(a, b), spearman_corrcoef(a.T, b.T), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (2, 3, 9), elements=st.sampled_from([-1.5, -0.0, 0.0, 1e-45, 2.0, 3e38])))
def test_kendall_tau_by_every_pair(maps: np.ndarray) -> None:
    a, b = torch.from_numpy(maps)
    signs = [(m[:, :, None].double() - m[:, None, :].double()).sign() for m in (a, b)]
    between = (signs[0] * signs[1]).sum(dim=(1, 2))
    expected = between / (signs[0].abs().sum(dim=(1, 2)) * signs[1].abs().sum(dim=(1, 2))).sqrt()
    torch.testing.assert_close(kendall_tau(a, b).double(), expected, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ranks_exactly(dtype: torch.dtype) -> None:
    a, b = (m.to(dtype) for m in pair("continuous", 50, torch.float32))
    torch.testing.assert_close(kendall_tau(a, b), kendall_tau(a.float(), b.float()).to(dtype))


def test_kendall_tau_of_long_maps_crosses_every_width() -> None:
    for n in (8191, 8192, 9000):  # positions leave int16, and rank sums float32
        a, b = pair("ties in one", n, torch.float32)
        expected = stats.kendalltau(a[0].numpy(), b[0].numpy()).statistic
        assert kendall_tau(a[:1], b[:1]).item() == pytest.approx(expected, abs=1e-6)


def test_kendall_tau_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair("ties in both", 30, torch.float32)
    whole = kendall_tau(a, b)
    monkeypatch.setattr("faultlines.estimators.similarity.CHUNK", 61)
    assert torch.equal(kendall_tau(a, b), whole)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130, 300])
def test_inversions_by_every_pair(n: int) -> None:
    order = noise(4, n).argsort(dim=1).numpy()
    wrong = np.triu(order[:, :, None] > order[:, None, :], 1).sum(axis=(1, 2))
    for dtype in (np.int16, np.int32, np.int64):
        assert np.array_equal(inversions(order.astype(dtype)), wrong)
    assert np.array_equal(inversions(np.sort(order)[:, ::-1]), np.full(4, n * (n - 1) // 2))


def test_order_codes_keep_order_and_ties() -> None:
    values = torch.tensor([[-3e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38]])
    for x in (values, values.double()):
        codes = order_codes(x).astype(np.int64)
        assert np.array_equal(np.sign(np.diff(codes)), x.diff().sign().numpy())


def test_order_codes_tell_what_is_finite() -> None:
    largest = torch.finfo(torch.float32).max
    values = torch.tensor([[-torch.inf, -torch.nan, torch.nan, torch.inf, -largest, largest, -0.0]])
    for x in (values, values.double()):
        codes = order_codes(x)
        assert np.array_equal((codes >= FINITE[0]) & (codes <= FINITE[1]), x.isfinite().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_kendall_tau_is_nan_where_an_entry_is_not_finite(value: float, dtype: torch.dtype) -> None:
    a, b = noise(3, 70).to(dtype), noise(3, 70).to(dtype).flip(1)
    whole = kendall_tau(a, b)
    for maps in (a, b):
        spoilt = maps[1, 40].clone()
        maps[1, 40] = value
        assert kendall_tau(a, b)[[0, 2]].equal(whole[[0, 2]])
        assert kendall_tau(a, b)[1].isnan()
        maps[1, 40] = spoilt


def test_ranks_and_ties() -> None:
    x = torch.tensor([[2.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 6.0, 6.0]])
    assert torch.equal(average_ranks(x), torch.from_numpy(stats.rankdata(x.numpy(), axis=1)))
    same = x.sort(dim=1).values.diff() == 0
    for border in (True, False):  # a row's first entry has no predecessor, whatever is said of it
        flat = torch.nn.functional.pad(same, (1, 0), value=border).flatten()[1:]
        assert tied_pairs(flat.numpy(), 4).tolist() == [3, 0, 2]
    assert tied_pairs(np.zeros(11, dtype=bool), 4).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_ranked(dtype: torch.dtype) -> None:
    a, b = noise(4, 50).to(dtype), noise(4, 50, seed=1).to(dtype)
    for measure in (kendall_tau, spearman):
        found = measure(a, b)
        assert found.dtype == dtype
        assert torch.equal(found, measure(a.double(), b.double()).to(dtype))


def test_topk_is_the_intersection_of_sets() -> None:
    a, b = noise(5, 6, 7), noise(5, 6, 7, seed=1)
    for k in (1, 10, 42):
        sets = [[set(row.topk(k).indices.tolist()) for row in m.flatten(1)] for m in (a, b)]
        expected = [len(s & t) / k for s, t in zip(*sets, strict=True)]
        torch.testing.assert_close(topk_intersection(a, b, k), torch.tensor(expected, dtype=a.dtype))


def test_topk_shares_tied_places_out() -> None:
    a = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])  # with k = 2 each tied pixel belongs to 1/3
    assert topk_intersection(a, a, 2).item() == pytest.approx(1)
    b = torch.tensor([[1.0, 3.0, 2.0, 0.0, 0.0]])  # its top two are pixels 1 and 2
    assert topk_intersection(a, b, 2).item() == pytest.approx((1 / 3 + 1 / 3) / 2)
    constant = torch.ones(1, 5)
    assert topk_intersection(constant, b, 2).item() == pytest.approx(2 / 5)
    assert topk_intersection(constant, 0 * constant, 2).item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_topk_is_a_share_in_every_dtype(dtype: torch.dtype) -> None:
    a = noise(20, 784).to(dtype)
    tied = a.float().round(decimals=1).to(dtype)
    for k in (3, 100, 300, 783):
        for maps in (a, tied):
            own = topk_intersection(maps, maps, k)
            assert (own <= 1).all() and (own >= 1 - 1e-15).all()
        found = topk_intersection(a, tied, k)
        exact = topk_intersection(a.double(), tied.double(), k)
        assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize("k", [0, 13, -1, 2.0, True])
def test_topk_refuses_a_k_that_does_not_fit(k) -> None:
    with pytest.raises(ValueError, match=f"k={k!r} must be an integer from 1 to 12"):
        topk_intersection(noise(2, 3, 4), noise(2, 3, 4), k)


def test_cosine() -> None:
    a, b = noise(5, 6, 7), noise(5, 6, 7, seed=1)
    rows = a.flatten(1), b.flatten(1)
    torch.testing.assert_close(cosine(a, b), F.cosine_similarity(*rows))
    expected = [stats.pearsonr(*both).statistic for both in zip(*rows, strict=True)]
    torch.testing.assert_close(cosine(a, b, centre=True), torch.tensor(expected, dtype=a.dtype))
    tiny = cosine(1e-200 * a, 1e200 * b)
    torch.testing.assert_close(tiny, cosine(a, b))


def test_a_map_meets_itself() -> None:
    a = noise(3, 12, 12).clamp_min(0)
    for measure in (kendall_tau, spearman, cosine, lambda a, b: topk_intersection(a, b, 100)):
        torch.testing.assert_close(measure(a, a), torch.ones(3, dtype=a.dtype))


def test_constant_and_zero_maps() -> None:
    a = torch.stack([torch.full((4, 4), 0.1), torch.zeros(4, 4), noise(4, 4).float()])
    b = noise(3, 4, 4, seed=1).float()
    for measure in (kendall_tau, spearman, lambda a, b: cosine(a, b, centre=True)):
        for found in (measure(a, b), measure(b, a)):
            assert found.isnan().tolist() == [True, True, False]
        assert measure(a, a).isnan().tolist() == [True, True, False]
    assert cosine(a, b).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("measure", PAIRWISE)
def test_layout_autograd_and_batch_size_do_not_matter(measure) -> None:
    a, b = (noise(9, 14, 12, seed=s, dtype=torch.float32).round(decimals=1) for s in (0, 1))
    kept = a.clone()
    expected = measure(a, b)
    one_by_one = torch.cat([measure(a[i : i + 1], b[i : i + 1]) for i in range(len(a))])
    torch.testing.assert_close(one_by_one, expected)
    strided = (a.permute(2, 0, 1).contiguous().permute(1, 2, 0), b.mT.contiguous().mT)
    assert not any(m.is_contiguous() for m in strided)
    torch.testing.assert_close(measure(*strided), expected)
    torch.testing.assert_close(measure(a[:1].expand(9, -1, -1), b), measure(a[:1].repeat(9, 1, 1), b))
    torch.testing.assert_close(measure(a.clone().requires_grad_(), b).detach(), expected)
    with torch.inference_mode():
        torch.testing.assert_close(measure(a, b), expected)
    assert measure(a[:0], b[:0]).shape == (0,)
    assert torch.equal(a, kept)


@pytest.mark.parametrize("measure", PAIRWISE)
def test_an_entry_that_is_not_finite_makes_its_own_pair_undefined(measure) -> None:
    a, b = noise(4, 5, 5), noise(4, 5, 5, seed=1)
    clean = measure(a, b)
    a[1, 0, 0], b[2, 1, 1] = torch.nan, torch.inf
    found = measure(a, b)
    assert found.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(found[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("measure", PAIRWISE)
def test_bad_input(measure) -> None:
    with pytest.raises(ValueError, match=r"shapes \(2, 3, 4\) and \(2, 4, 3\)"):
        measure(noise(2, 3, 4), noise(2, 4, 3))
    with pytest.raises(ValueError, match=r"dtypes torch.float64 and torch.float32"):
        measure(noise(2, 3, 4), noise(2, 3, 4).float())
    with pytest.raises(ValueError, match=r"dtypes torch.int64"):
        measure(noise(2, 3, 4).long(), noise(2, 3, 4).long())


def test_measures_refuse_what_they_cannot_rank() -> None:
    for measure in (kendall_tau, spearman):
        with pytest.raises(ValueError, match="1 entries a map; at least 2"):
            measure(noise(3, 1), noise(3, 1))
