from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from benchmarks import __main__ as all_benchmarks
from benchmarks.scaling import Case, Point, exponent, linear, rows_of, square
from PIL import Image

from faultlines.book.measured import speed_page
from faultlines.book.scaling import PICTURE, scaling_page
from faultlines.notebook.project import Project

SIZES = (10, 20, 40, 80, 160)
CASE = Case("a bound", "tokens", SIZES, lambda n: lambda: None, linear, square, note="width 768")


def points(time: float, memory: float) -> list[Point]:
    # a fixed cost at the first size, which is not fitted
    return [
        Point(n, 1e-3 * n**time + (n == 10), 10.0 * n**memory, 2e-3 * n if n == 160 else None) for n in SIZES
    ]


def test_the_exponent_is_the_slope_over_the_last_four() -> None:
    assert exponent(SIZES, [7.0, *(3.0 * n**2 for n in SIZES[1:])]) == pytest.approx(2.0)
    assert exponent(SIZES, [5.0] * 5) == pytest.approx(0.0)
    assert exponent(SIZES[:2], [1.0, 2.0]) is None


def test_a_fit_above_theory_is_a_target_missed() -> None:
    time, memory = rows_of(CASE, points(1.1, 2.2))
    assert (time["ratio"], time["target"], time["ok"]) == (pytest.approx(1.1), pytest.approx(1.15), True)
    assert (memory["ratio"], memory["target"], memory["ok"]) == (
        pytest.approx(2.2),
        pytest.approx(2.15),
        False,
    )


def test_memory_too_little_to_tell_is_not_fitted() -> None:
    _, memory = rows_of(CASE, [Point(n, 1.0, 0.1 * n**0.5) for n in SIZES])
    assert memory["ratio"] is None and memory["ok"] and "under 4 MiB" in memory["note"]


def test_a_size_that_failed_is_told() -> None:
    time, _ = rows_of(CASE, points(1.0, 2.0)[:4])
    assert "not measured from 160 on" in time["note"]
    time, memory = rows_of(CASE, [])
    assert time["ratio"] is None and time["ok"] is None and memory["ok"] is None


def test_the_page_has_figure_and_table(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Nothing was measured yet" in scaling_page(checkout)
    path = checkout.root / "results" / "benchmarks.json"
    path.parent.mkdir()
    monkeypatch.setattr(all_benchmarks, "KEPT", path)
    other = replace(CASE, what="a kernel")
    rows = [*rows_of(CASE, points(1.1, 2.2)), *rows_of(other, [])]
    all_benchmarks.keep("scaling", {"title": "How time and memory grow", "rows": rows})
    text = scaling_page(checkout)
    assert "name: fig-scaling" in text and 'alt: "1 panels' in text and "a bound: memory" in text
    cells = "* - a bound\n  - 10 to 160 tokens\n  - 1.10\n  - 1.00\n  - **2.20**, above\n  - 2.00"
    assert cells in text and "width 768" in text
    assert "at fewer than 3 sizes: a kernel." in text
    picture = checkout.root / "_generated" / PICTURE
    drawn = picture.read_bytes()
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.size[0] > 1000
    stamp = picture.stat().st_mtime_ns
    assert scaling_page(checkout) == text and picture.stat().st_mtime_ns == stamp  # drawn once
    assert "a bound" not in speed_page(checkout)  # it is no ratio


def test_other_benchmarks_keep_their_form(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkout.root / "benchmarks.json"
    monkeypatch.setattr(all_benchmarks, "KEPT", path)
    row = {"name": "a / b", "ours_s": 1.0, "peer_s": 2.0, "ratio": 0.5, "target": 1.0, "ok": True, "note": ""}
    all_benchmarks.keep("pgd", {"title": "PGD", "rows": [row]})
    assert json.loads(path.read_text())["pgd"]["rows"] == [row]
