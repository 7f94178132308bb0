from __future__ import annotations

import pytest
import torch

from faultlines.data import distribution_suite
from faultlines.data.distributions import hard_distributions, random_distributions


def test_rows_are_distributions_from_peaked_to_flat() -> None:
    p = random_distributions(2000, 17, generator=torch.Generator().manual_seed(0))
    assert p.dtype == torch.float64
    torch.testing.assert_close(p.sum(-1), torch.ones(2000, dtype=torch.float64))
    assert p.amax(-1).max() > 0.999999
    assert p.amax(-1).min() < 1.2 / 17


def test_hard_cases_are_what_their_names_say() -> None:
    cases = hard_distributions(9)
    assert all(abs(case.sum().item() - 1) < 1e-12 for case in cases.values())
    assert cases["one-hot"].max() == 1
    assert cases["uniform"].max() == pytest.approx(1 / 9)
    assert sorted(cases["two equal"].tolist())[-3:] == [0.0, 0.5, 0.5]
    assert len(set(cases["leader and equal tail"][1:].tolist())) == 1


def test_the_same_seed_gives_the_same_suite() -> None:
    first, second = (
        distribution_suite(60, (3, 5), generator=torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [len(p) for p in first] == [30, 37]  # the hard cases need four outcomes


@pytest.mark.parametrize(("count", "size"), [(0, 5), (5, 1)])
def test_sizes_out_of_range_are_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="count="):
        random_distributions(count, size, generator=torch.Generator())


def test_temperatures_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="temperatures"):
        random_distributions(5, 5, generator=torch.Generator(), temperatures=(0.0, 1.0))
