from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from faultlines.book.measured import COSTS, costs_page
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.kernel import read_counters, spent
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs


def zone(folder: Path, name: str, count: int) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{count}\n")
    (folder / name / "max_energy_range_uj").write_text("1000000\n")


def test_energy_is_the_packages_count_and_may_wrap(tmp_path: Path) -> None:
    assert read_counters(tmp_path) == {} and spent({}, {}) is None
    for name, count in (("intel-rapl:0", 900_000), ("intel-rapl:1", 100_000), ("intel-rapl:0:0", 5)):
        zone(tmp_path, name, count)
    before = read_counters(tmp_path)
    assert set(before) == {"intel-rapl:0", "intel-rapl:1"}  # the part of package 0 is in it already
    zone(tmp_path, "intel-rapl:0", 400_000)
    zone(tmp_path, "intel-rapl:1", 350_000)
    assert spent(before, read_counters(tmp_path)) == 0.75
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert spent(before, read_counters(tmp_path)) == 0.5


def test_every_run_tells_its_cost_and_its_command(checkout: Project, put: Callable[..., Path]) -> None:
    assert costs_page(Freshness(checkout, Runs.load(checkout))) == "No chapter has a result yet.\n"
    put(energy_j=7200.0)
    put("desk", modules={"faultlines": {"x": "0"}}, resumed=True)
    put("smoke")
    lines = costs_page(Freshness(checkout, Runs.load(checkout))).splitlines()
    assert sum(line.startswith("* - ") for line in lines) == 3  # head, default, desk
    assert len([line for line in lines if line.startswith(("* - ", "  - "))]) == 3 * len(COSTS)
    text = "\n".join(lines)
    assert "2.0 Wh" in text and "not told" in text
    assert "`faultlines run toy --run desk --force`" in text
    assert text.count("stale") == 2 and text.index("desk <span") < text.index("went on")
