from __future__ import annotations

import pytest

from faultlines.notebook.errors import UsageError
from faultlines.runner.sweep import combinations, read_axes


def test_ranges_include_both_ends_and_may_have_steps() -> None:
    assert read_axes(["seed=0..3"]) == {"seed": ["0", "1", "2", "3"]}
    assert read_axes(["seed=-2..2..2"]) == {"seed": ["-2", "0", "2"]}
    assert read_axes(["seed=5..9..3"]) == {"seed": ["5", "8"]}
    assert read_axes(["seed=1..2,7"]) == {"seed": ["1", "2", "7"]}


def test_words_numbers_and_lists_stay_as_written() -> None:
    axes = read_axes(["dataset=mnist,cifar10", "lr=1e-3,0.01", "eps=[0.1, 0.2],[0.3]", "name=a..b"])
    assert axes == {
        "dataset": ["mnist", "cifar10"], "lr": ["1e-3", "0.01"], "eps": ["[0.1, 0.2]", "[0.3]"], "name": ["a..b"]
    }  # fmt: skip


def test_every_combination_comes_once_and_in_order() -> None:
    found = combinations({"a": ["1", "2"], "b": ["x", "y", "z"]})
    assert len(found) == 6 and len({tuple(one.items()) for one in found}) == 6
    assert (
        found[0] == {"a": "1", "b": "x"}
        and found[1] == {"a": "1", "b": "y"}
        and found[-1] == {"a": "2", "b": "z"}
    )


BAD = {
    "no name": ("=1,2", "is no axis"),
    "no value": ("a=", "is no axis"),
    "an empty value": ("a=1,,2", "empty value"),
    "half a bracket": ("a=[1,2", "bracket"),
    "the other half": ("a=1],2", "bracket"),
    "an empty range": ("a=3..1", "is empty"),
    "no step": ("a=1..3..0", "is empty"),
    "a value twice": ("a=1,2,1", "has 1 twice"),
    "a value twice through a range": ("a=0..3,2", "has 2 twice"),
    "a range without end": ("a=0..100000000000", "more than"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_axis_is_named(case: str) -> None:
    word, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        read_axes([word])


def test_an_axis_given_twice_and_a_product_too_large() -> None:
    with pytest.raises(UsageError, match="given twice"):
        read_axes(["a=1", "a=2"])
    with pytest.raises(UsageError, match="1000000 combinations"):
        read_axes(["a=1..1000", "b=1..1000"])
