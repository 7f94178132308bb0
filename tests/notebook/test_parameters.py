from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faultlines.notebook.errors import UsageError
from faultlines.notebook.parameters import CHECKS, read_parameters, read_rules, resolve

CELL = """\
seeds: int = 5  # paired seeds [2..64]
eps: float = 1e-3  # radius of the ball [1e-6..1]
shift: float = -0.5  # any side [-1..1]
steps: int = 10  # no end [0..]
rates: list[float] = [0.1]  # each of them [0..1]
sizes: list[int] = [1, 2]
pool: str = "cls"  # read-out [cls | mean]
width: int = 8  # a choice of numbers [8 | 16]
gain: float = 0.001  # a choice of numbers [1e-3 | 1]
names: list[str] = ["a"]
fused: bool = False
note: str = ""
dataset: str = "digits"  # data set [data set]
"""
DECLARED = {parameter.name: parameter for parameter in read_parameters(CELL)}


def read(name: str, text: str) -> Any:
    parameter = DECLARED[name]
    return parameter.check(parameter.parse(text), {})


def test_the_cell_says_all() -> None:
    eps = DECLARED["eps"]
    assert (eps.type, eps.default, eps.comment, eps.allowed) == (
        "float",
        1e-3,
        "radius of the ball",
        "1e-6..1",
    )
    assert DECLARED["rates"].is_list and DECLARED["rates"].scalar == "float"
    assert not DECLARED["sizes"].allowed


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seeds", "2", 2), ("seeds", "64", 64), ("seeds", "010", 10), ("seeds", " 7 ", 7),
        ("steps", "1000000", 1000000), ("steps", "0", 0),
        ("eps", "1e-3", 1e-3), ("eps", "1", 1.0), ("eps", ".5", 0.5), ("shift", "-1", -1.0),
        ("rates", "[1e-3, 0.1, 1]", [1e-3, 0.1, 1.0]), ("sizes", "[3]", [3]),
        ("pool", "mean", "mean"), ("width", "16", 16), ("gain", "1", 1.0),
        ("names", "[on, 1e-3, null]", ["on", "1e-3", "null"]),
        ("note", "on", "on"), ("note", "1e-3", "1e-3"), ("note", "", ""), ("note", "a=b", "a=b"),
        ("fused", "true", True), ("fused", "on", True), ("fused", "False", False),
    ],
)  # fmt: skip
def test_values_are_read_in_their_type(name: str, text: str, value: Any) -> None:
    found = read(name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seeds", "1"), ("seeds", "65"), ("seeds", "5.0"), ("seeds", "five"), ("seeds", "true"), ("seeds", ""),
        ("seeds", "null"), ("seeds", "[5]"), ("seeds", "1:30"), ("seeds", "0x10"), ("steps", "-1"),
        ("eps", "0"), ("eps", "1e-7"), ("eps", "nan"), ("eps", "inf"), ("eps", "on"), ("eps", "1,5"),
        ("shift", "1.01"), ("rates", "[]"), ("rates", "0.3"), ("names", "b"), ("sizes", "[" * 5000),
        ("names", "[!!binary aGk=]") ,  ("rates", "[0.1, 2]"), ("rates", "[[0.1]]"), ("rates", "{a: 1}"),
        ("rates", "[0.1"), ("rates", ""), ("rates", "[nan]"), ("pool", "max"), ("width", "9"), ("gain", "0.5"),
        ("fused", "1"), ("fused", "maybe"), ("sizes", "[1.5]"),
    ],
)  # fmt: skip
def test_bad_values_are_named(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"^parameter {name}="):
        read(name, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seeds", True), ("seeds", 5.0), ("fused", 1), ("note", 1), ("eps", True), ("eps", None), ("eps", float("nan")),
     ("rates", 0.1), ("rates", ["x"]), ("steps", float("inf")), ("note", False)],
)  # fmt: skip
def test_values_of_runs_yml_keep_their_type(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^parameter {name}="):
        DECLARED[name].check(value, {})


def test_a_whole_number_and_an_exponent_are_floats_in_runs_yml() -> None:
    assert DECLARED["rates"].check([1, "1e-3"], {}) == [1.0, 1e-3]
    assert type(DECLARED["eps"].check(1, {})) is float


def test_an_unknown_name_is_answered_with_the_near_one() -> None:
    with pytest.raises(UsageError, match=r"toy has no parameter 'sedes'; did you mean 'seeds'\?"):
        resolve(list(DECLARED.values()), {"sedes": 3}, "toy", {})
    with pytest.raises(UsageError, match=r"no parameter 'zzz' \(it has seeds, "):
        resolve(list(DECLARED.values()), {"zzz": 3}, "toy", {})


def test_defaults_are_filled_in_and_checked() -> None:
    resolved = resolve(list(DECLARED.values()), {"seeds": 8}, "toy", {})
    assert resolved["seeds"] == 8
    assert list(resolved) == list(DECLARED)
    with pytest.raises(UsageError, match=r"seeds=1 is outside 2\.\.64"):
        resolve(read_parameters("seeds: int = 1  # [2..64]"), {}, "toy", {})


def test_a_named_check_says_no() -> None:
    def refuse(name: str) -> None:
        raise ValueError(f"no {name} here")

    with pytest.raises(UsageError, match="parameter dataset='cifar': no cifar here"):
        DECLARED["dataset"].check("cifar", {"data set": refuse})


class Unprintable:
    pass


ODD = [
    None, b"x", {1}, {}, (1, 2), [], [[]], [[1]], [None], [True], 1j, float("nan"), -float("inf"), 10**400, [10**400],
    10**5000, [10**5000], "x" * 100_000, ["x" * 100_000], "\ud800", ["../x"], range(3), {"a": 1}, 2**70, Unprintable(),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_whatever_papermill_passes_is_refused_in_one_line(value: Any) -> None:
    for name in ("seeds", "eps", "rates", "pool", "fused", "dataset"):
        with pytest.raises(UsageError) as caught:
            resolve(list(DECLARED.values()), {name: value}, "toy", CHECKS)
        words = str(caught.value)
        assert "\n" not in words and len(words) < 500 and name in words


def test_a_file_and_a_folder_are_there_or_not_named(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    file, folder = read_parameters("w: str = ''  # weights [file]\nf: str = ''  # where [folder]")
    for parameter, good, bad in ((file, tmp_path / "w.pt", tmp_path), (folder, tmp_path, tmp_path / "w.pt")):
        assert parameter.check("", CHECKS) == ""
        assert parameter.check(str(good), CHECKS) == str(good)
        for path in (str(bad), str(tmp_path / "none"), "../x", "x" * 100_000, "\0"):
            with pytest.raises(UsageError, match=f"there is no such {parameter.allowed}"):
                parameter.check(path, CHECKS)


def test_rules_know_how_many_images_and_classes_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = np.zeros((12, 6, 6), dtype=np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path))
    cell = """
name: str = "digits"  # [data set]
n: int = 1  # [1..60000]
k: int = 0  # [0..99]
# must: n <= images_of(name)[0] and n <= images_of(name)[1] -- there are as many images
# must: k < classes_of(name) -- there is such a class
"""
    declared, rules = read_parameters(cell), read_rules(cell)
    for values in ({"n": 500, "k": 9}, {"name": "mine", "n": 6, "k": 2}, {"name": "mnist", "n": 10_000}):
        assert resolve(declared, values, "toy", {}, rules)
    for values, reason in (
        ({"n": 501}, "as many images"), ({"k": 10}, "such a class"), ({"name": "mine", "n": 7}, "as many images"),
        ({"name": "mine", "k": 3}, "such a class"), ({"name": "none"}, "as many images"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=reason):
            resolve(declared, values, "toy", {}, rules)


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("seeds = 5", "line 1: a parameter is"),
        ("x: int = 1\nimport torch", "line 2: a parameter is"),
        ("x: int", "line 1: a parameter is"),
        ("eps: float = 8 / 255  # radius", "must be written out, not computed"),
        ("n: int = 2\nm: int = n", "line 2: the value of m"),
        ("x: tensor = 1", "type 'tensor' is not"),
        ("x: list[list[int]] = [[1]]", "is not int | float"),
        ("x: int = (", "line 1"),
        ("x: int = 1\nx: int = 2", "declared twice"),
        ("x: int = 1  # [1..two]", r"[1..two] is not a range"),
        ("x: str = 'a'  # [0..1]", "is not a range"),
        ("x: bool = True  # [0..1]", "is not a range"),
        ("x: int = 1  # [a | b]", "is not a range"),
        ("x: int = 1  # [device]", "is not a range"),
    ],
)
def test_a_cell_that_cannot_be_read_is_one_clear_error(cell: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_parameters(cell, where="toy.md, parameters cell")
    assert str(caught.value).startswith("toy.md, parameters cell, line ")
    assert complaint in str(caught.value)
