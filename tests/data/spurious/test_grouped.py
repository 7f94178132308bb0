from __future__ import annotations

from collections import Counter

import pytest

from faultlines.data import CLASSES, LOCATIONS, benchmark_cells
from faultlines.data.spurious.grouped import BENCHMARKS, m2m_cells, o2o_cells

# class -> locations in training and in the test, written out by hand from the published loader
HOT, DARK, PALE = "desert mountain", "dirt jungle", "beach snow"
M2M = {
    "easy": (
        {"bulldog": HOT, "dachshund": HOT, "labrador": DARK, "corgi": DARK},
        {"bulldog": DARK, "dachshund": DARK, "labrador": HOT, "corgi": HOT},
    ),
    "medium": (
        {"bulldog": PALE, "dachshund": PALE, "labrador": HOT, "corgi": HOT},
        {"bulldog": HOT, "dachshund": HOT, "labrador": PALE, "corgi": PALE},
    ),
    "hard": (
        {"bulldog": DARK, "dachshund": DARK, "labrador": PALE, "corgi": PALE},
        {"bulldog": PALE, "dachshund": PALE, "labrador": DARK, "corgi": DARK},
    ),
}  # fmt: skip
O2O = {
    "easy": (
        {"bulldog": "desert", "dachshund": "jungle", "labrador": "dirt", "corgi": "snow"},
        {"bulldog": "dirt", "dachshund": "snow", "labrador": "desert", "corgi": "jungle"},
        "beach",
    ),
    "medium": (
        {"bulldog": "mountain", "dachshund": "beach", "labrador": "dirt", "corgi": "jungle"},
        {"bulldog": "jungle", "dachshund": "dirt", "labrador": "beach", "corgi": "snow"},
        "desert",
    ),
    "hard": (
        {"bulldog": "jungle", "dachshund": "mountain", "labrador": "snow", "corgi": "desert"},
        {"bulldog": "mountain", "dachshund": "snow", "labrador": "desert", "corgi": "jungle"},
        "beach",
    ),
}


def counted(cells):
    counts = Counter()
    for cell in cells:
        counts[cell.label, cell.location, cell.environment] += cell.count
    return counts


def test_labels_are_numbered_as_published():
    assert CLASSES == ("bulldog", "corgi", "dachshund", "labrador")
    assert LOCATIONS == ("desert", "jungle", "dirt", "mountain", "snow", "beach")
    cell = m2m_cells("hard").train[0]
    assert (CLASSES[cell.y], LOCATIONS[cell.c]) == (cell.label, cell.location)


@pytest.mark.parametrize("difficulty", M2M)
def test_many_to_many_cells_are_the_published_ones(difficulty):
    structure = m2m_cells(difficulty)
    for cells, expected in zip(structure, M2M[difficulty], strict=True):
        found = {}
        for (label, location, _), count in counted(cells).items():
            assert count == 3168
            found.setdefault(label, []).append(location)
        assert {label: " ".join(sorted(places)) for label, places in found.items()} == expected
        assert sum(cell.count for cell in cells) == 25_344


@pytest.mark.parametrize("difficulty", M2M)
def test_environments_swap_the_backgrounds_of_a_pair(difficulty):
    for cells in m2m_cells(difficulty):
        where = {(cell.label, cell.environment): cell.location for cell in cells}
        for one, other in (("bulldog", "dachshund"), ("labrador", "corgi")):
            assert where[one, 0] == where[other, 1] != where[one, 1] == where[other, 0]


@pytest.mark.parametrize("difficulty", M2M)
def test_many_to_many_has_no_training_cell_in_its_test(difficulty):
    train, test = ({(cell.y, cell.c) for cell in cells} for cells in m2m_cells(difficulty))
    assert len(train) == len(test) == 8 and not train & test
    assert {c for _, c in train} == {c for _, c in test}  # the same four backgrounds


def test_many_to_many_hard_starts_as_in_the_loader():
    first = [(cell.label, cell.location, cell.environment) for cell in m2m_cells("hard").train[:4]]
    assert first == [
        ("bulldog", "dirt", 0), ("bulldog", "jungle", 1), ("dachshund", "jungle", 0), ("dachshund", "dirt", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("difficulty", O2O)
def test_one_to_one_cells_are_the_published_ones(difficulty):
    train, test = o2o_cells(difficulty)
    own, last, filler = O2O[difficulty]
    expected = Counter()
    for label in CLASSES:
        for environment, (most, rest) in enumerate([(3072, 96), (2756, 412)]):
            expected[label, own[label], environment] = most
            expected[label, filler, environment] = rest
    assert counted(train) == expected
    assert counted(test) == {(label, last[label], e): 3168 for label in CLASSES for e in (0, 1)}
    assert not {(cell.y, cell.c) for cell in train} & {(cell.y, cell.c) for cell in test}


def test_small_counts_keep_the_rates():
    counts = [cell.count for cell in o2o_cells("hard", 300).train]
    assert counts == [291, 261] * 4 + [9, 39] * 4
    assert sum(cell.count for cell in o2o_cells("hard", 1).train) == 8
    assert all(cell.count == 7 for cells in m2m_cells("easy", 7) for cell in cells)


def test_names():
    assert BENCHMARKS == ("o2o_easy", "o2o_medium", "o2o_hard", "m2m_easy", "m2m_medium", "m2m_hard")
    assert benchmark_cells("m2m_medium", 5) == m2m_cells("medium", 5)
    assert benchmark_cells("o2o_hard") == o2o_cells("hard")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: benchmark_cells("hard"), "name='hard' is not one of o2o_easy"),
        (lambda: m2m_cells("m2m_hard"), "difficulty='m2m_hard' is not one of easy, medium, hard"),
        (lambda: o2o_cells("easy", 0), "n=0 must be an integer of at least 1"),
        (lambda: m2m_cells("easy", 2.0), "n=2.0 must be an integer"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
