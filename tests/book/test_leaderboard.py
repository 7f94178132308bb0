"""The leaderboard's numbers are those of the stored networks, by other code; too few seeds have no place."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from faultlines.book import measured
from faultlines.book.measured import RANKED, leaderboard_page, read_card, standings
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "lib" / "faultlines"
HELD = json.loads((LIBRARY / "studies" / "card_references.json").read_text(encoding="utf-8"))
SMALLEST = {probe: said["smallest"] for probe, said in HELD["of_interest"].items()}
SETS = {one["setting"]["dataset"]: one for one in HELD["sets"]}
COLUMNS = 4 + len(SMALLEST)


def tables(page: str) -> list[tuple[bool, dict[str, list[str]]]]:
    """Return whether each table of the page is provisional, and its rows by mechanism."""
    found = []
    for before, table in re.findall(r"(\S[^\n]*)\n\n```\{list-table\}\n(.*?)```", page, re.DOTALL):
        rows = [re.split(r"\n  - ", row.strip()) for row in table.split("* - ")[1:]]
        assert all(len(row) == COLUMNS for row in rows) and rows[0][0] == "Mechanism"
        found.append((before.startswith("**Provisional**"), {row[0]: row for row in rows[1:]}))
    return found


def by_hand(own: list[float], softmax: list[float], smallest: float) -> tuple[str, str]:
    """Return the effect and the verdict on "it moves less", with scipy's paired test and numpy."""
    own_, softmax_ = np.array(own), np.array(softmax)
    ends = stats.ttest_rel(own_, softmax_).confidence_interval(0.95)
    text = f"{np.mean(own_ - softmax_):+.2f} [{ends.low:+.2f}, {ends.high:+.2f}]"
    if max(abs(ends.low), abs(ends.high)) <= smallest:
        return text, "negligible"
    if ends.high < 0:
        return text, "holds"
    return text, "fails" if ends.low > 0 else "inconclusive"


def test_every_cell_is_what_scipy_makes_of_the_stored_networks(checkout: Project) -> None:
    page = leaderboard_page(checkout).replace("\N{NO-BREAK SPACE}", " ")
    names = re.findall(r"^## On (.*)$", page, re.MULTILINE)
    parts = re.split(r"^## On .*$", page, flags=re.MULTILINE)[1:]
    assert len(names) == len(parts) == len(SETS)
    for one, part in zip(SETS.values(), parts, strict=True):
        rows = {name: row for _, of in tables(f"##{part}") for name, row in of.items()}
        assert set(rows) == set(one["networks"]) | set(one.get("missed", {}))
        softmax, compared = one["networks"]["softmax"], 0
        for name, row in rows.items():
            own = one["networks"].get(name, {})
            both = sorted(set(own) & set(softmax))
            assert row[2].split()[0] == str(len(both))
            assert not own or row[3].startswith(f"{np.mean([n['accuracy'] for n in own.values()]):.1%}")
            for (probe, smallest), cell in zip(SMALLEST.items(), row[4:], strict=True):
                if name == "softmax" or len(both) < 2:
                    continue
                pair = ([of[s]["probes"][probe][0] for s in both] for of in (own, softmax))
                effect, verdict = by_hand(*pair, smallest)
                # rounding may turn a number that lies between two
                numbers, wanted = ([float(n) for n in re.findall(r"[-+]\d+\.\d+", t)] for t in (cell, effect))
                assert numbers == pytest.approx(wanted, abs=0.0101), (name, probe)
                assert f"verdict-{verdict}" in cell, (name, probe)
                compared += 1
        assert compared >= 30


def test_no_row_with_fewer_than_twenty_seeds_has_a_place(checkout: Project) -> None:
    assert RANKED == 20
    for provisional, rows in tables(leaderboard_page(checkout)):
        for row in rows.values():
            assert (int(row[2].split()[0]) < RANKED) is provisional
            assert (row[1] == "no place") is (provisional and row[0] != "softmax")


def made(seeds: int, shift: float, rng: np.random.Generator) -> dict[str, Any]:
    return {
        str(seed): {
            "accuracy": 0.9,
            "probes": {probe: [shift + rng.normal(scale=0.01), 0.0] for probe in SMALLEST},
        }
        for seed in range(seeds)
    }


def test_rows_with_a_place_come_by_balance_and_the_others_by_name() -> None:
    rng = np.random.default_rng(0)
    one = {
        "networks": {
            "softmax": made(20, 1.0, rng), "worse": made(20, 2.0, rng), "better": made(20, 0.0, rng),
            "z few": made(19, 0.0, rng), "a few": made(5, 2.0, rng), "same": made(20, 1.0, rng), "one": made(1, 0, rng),
        },
        "missed": {"never": list(range(20)), "z few": [19]},
    }  # fmt: skip
    rows = standings(one, SMALLEST)
    assert [row.name for row in rows] == [
        "better", "same", "softmax", "worse", "a few", "never", "one", "z few",
    ]  # fmt: skip
    found = {row.name: row for row in rows}
    assert found["better"].balance == len(SMALLEST) == -found["worse"].balance
    assert set(found["same"].verdicts.values()) == {"negligible"}
    assert not found["z few"].ranked and found["z few"].missed == 1
    assert found["never"].seeds == 0 and found["never"].missed == 20 and found["never"].accuracy is None
    assert found["one"].effects == {} and found["softmax"].effects == {}


def test_what_it_cannot_say_comes_from_the_data(checkout: Project) -> None:
    page = leaderboard_page(checkout).partition("## On")[0]
    for one in SETS.values():
        s = one["setting"]
        assert f"{s['train_size']:,} training images" in page and f"loss is at most {s['loss']:g}" in page
        assert f"{s['heads']} heads" in page
    assert all(f"{probe} {smallest:g} (" in page for probe, smallest in SMALLEST.items())
    assert ("No networks are stored yet on" in page) is (len(SETS) < 3)


def hand_in(root: Path, **changed: Any) -> Path:
    """Put a card of softmax's own numbers, all moved by 1, where a pull request would."""
    folder = root / "results" / "leaderboard" / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("def Mine(q, k, v):\n    return v\n")
    source = hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()[:16]
    one = SETS["digits"]
    networks = copy.deepcopy(one["networks"]["softmax"])
    card = {
        "target": "results/leaderboard/mine/mine.py:Mine", "source": f"{source}:Mine", "kind": "mechanism",
        "setting": one["setting"], "seeds": [int(s) for s in networks], "missed": [],
        "accuracy": [n["accuracy"] for n in networks.values()],
        "probes": {
            p: {side: [n["probes"][p][i] + 1 for n in networks.values()] for i, side in enumerate(("attack", "noise"))}
            for p in SMALLEST
        },
    } | changed  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    return folder / "card.json"


def test_a_card_that_is_handed_in_is_a_row(checkout: Project) -> None:
    path = hand_in(checkout.root)
    row = next(rows["mine"] for _, rows in tables(leaderboard_page(checkout)) if "mine" in rows)
    assert all(
        cell.startswith("+1.00 [+1.00,\N{NO-BREAK SPACE}+1.00]") and "fails" in cell for cell in row[4:]
    )
    assert read_card(path)[1]["networks"].keys() == SETS["digits"]["networks"]["softmax"].keys()
    (path.parent / "mine.py").write_text("def Mine(q, k, v):\n    return 2 * v\n")
    with pytest.raises(UsageError, match="whose file lies beside it as it was"):
        leaderboard_page(checkout)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"setting": {"dataset": "digits"}}, "a setting that no reference has"),
        ({"kind": "classifier"}, "is not of a mechanism"),
        ({"accuracy": [0.5]}, "is no card: IndexError"),
    ],
)
def test_a_card_that_is_none_is_refused(checkout: Project, changed: dict[str, Any], said: str) -> None:
    hand_in(checkout.root, **changed)
    with pytest.raises(UsageError, match=said):
        leaderboard_page(checkout)


def test_a_card_does_not_take_a_references_name(checkout: Project) -> None:
    path = hand_in(checkout.root)
    path.parent.rename(path.parent.with_name("softmax"))
    with pytest.raises(UsageError, match="called softmax, as a reference is"):
        leaderboard_page(checkout)


def test_without_references_the_page_says_so(tmp_path: Path) -> None:
    assert "Nothing was measured yet" in leaderboard_page(Project(tmp_path, tmp_path))
    assert measured.BOARDS[0] == "digits"
