"""Batches of seeds: written beside a fresh run, refused where they do not go with it, pooled by concatenation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from faultlines.book.page import result_page
from faultlines.book.publish import index_files, write_index
from faultlines.book.scoreboard import read_board
from faultlines.cli.app import app
from faultlines.notebook.batches import (
    Batch,
    Pooled,
    batch_file,
    check_batch,
    disagreement,
    pooled,
    write_batch,
)
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_result
from faultlines.reporting import Interval, Ledger, largest, mean_interval

SEEDS = "seeds: int = 5  # paired seeds [2..64]\n"
MORE = "first_seed: int = 100  # the first [0..1000]\ntuning_seeds: int = 0  # to choose on [0..9]\n"
EFFECTS = np.random.default_rng(5).normal(0.3, 0.4, 200).tolist()


def ledger_of(first: int, count: int, **intervals: Interval) -> list[dict[str, Any]]:
    """Return the rows of a chapter with two empirical primary claims and a theorem check, of these seeds."""
    ledger = Ledger()
    rule = {"smallest": 0.05, "reason": "a test's", "primary": True, "sentence": "ours"}
    for claim in ("C1", "C2"):
        ledger.state(claim, f"{claim} grows", paper="", test="mean above 0", **rule)
    ledger.state("T", "a bound", paper="", test="largest below 1", direction="below", threshold=1.0)
    effects = np.array(EFFECTS[first - 100 : first - 100 + count])
    ledger.settle("C1", intervals.get("C1", mean_interval(effects)), figure="toy-figure")
    ledger.settle("C2", intervals.get("C2", mean_interval(effects / 9 + 2)))
    ledger.settle("T", largest([0.1, 0.5]))
    return ledger.records()


@pytest.fixture
def seeded(checkout: Project, put: Callable[..., Path]) -> Project:
    """A checkout whose chapter has seeds, and a published desk run of the first eight."""
    path = checkout.chapters / "toy.md"
    path.write_text(path.read_text().replace(SEEDS, SEEDS + MORE))
    put("desk", path=checkout.published("desk", "toy"), ledger=ledger_of(100, 8))
    return checkout


def task(project: Project, first: int, **more: str) -> RunSpec:
    return RunSpec(judge(project).chapters["toy"], "desk", {"first_seed": str(first), **more})


def judge(project: Project) -> Freshness:
    return Freshness(project, Runs.load(project))


@pytest.fixture
def add(seeded: Project, put: Callable[..., Path]) -> Callable[..., Path]:
    """Execute other seeds, as a kernel would, and add them as a batch."""

    def write(first: int, count: int = 8, look: int | None = None, **changed: Any) -> Path:
        more = {} if count == 8 else {"seeds": str(count)}
        rows = changed.pop("ledger", ledger_of(first, count))
        put("desk", overrides={"first_seed": str(first), **more}, ledger=rows, **changed)
        return write_batch(judge(seeded), task(seeded, first, **more), look)

    return write


def read(project: Project) -> Pooled:
    desk = RunSpec(judge(project).chapters["toy"], "desk")
    base = judge(project).state(desk, "published").result
    assert base is not None
    return pooled(project, desk, base)


def test_a_batch_is_a_small_file_that_keeps_every_effect(seeded: Project, add: Callable[..., Path]) -> None:
    path = add(108)
    assert path == seeded.root / "results" / "desk" / "batches" / "toy-108.json"
    batch = Batch.model_validate_json(path.read_text())
    assert batch.seal == batch.digest() and batch.look == 2
    assert batch.seeds == list(range(108, 116)) and batch.parameters["first_seed"] == 108
    assert [row["claim"] for row in batch.ledger] == ["C1", "C2", "T"]
    assert batch.ledger[0]["effects"] == EFFECTS[8:16]
    assert batch.kernel["device"] == "CPU" and path.stat().st_size < 10_000


def test_pieces_are_pooled_by_concatenation(seeded: Project, add: Callable[..., Path]) -> None:
    add(200)
    add(108, 30)
    found = read(seeded)
    assert [batch.look for batch in found.batches] == [2, 3] and not found.left_out
    course = found.courses["C1"]
    assert list(course.sample.values) == EFFECTS[:8] + EFFECTS[100:108] + EFFECTS[8:38]
    assert [look.interval.n for look in course.looks] == [8, 16, 46]
    assert course.looks[0].verdict == "inconclusive" and course.verdict == "holds"
    assert found.not_pooled == {"T": "it is a check of all cases, not of seeds"}


def test_a_claim_is_followed_once_for_all_who_ask(seeded: Project, add: Callable[..., Path]) -> None:
    add(200)
    first, second = read(seeded), read(seeded)
    assert first.courses["C1"] is second.courses["C1"]
    add(108, 30)
    assert read(seeded).courses["C1"] is not first.courses["C1"]


def test_batches_of_one_look_are_looked_at_together(seeded: Project, add: Callable[..., Path]) -> None:
    add(108, look=2)
    add(116, look=2)
    assert [look.interval.n for look in read(seeded).courses["C1"].looks] == [8, 24]
    with pytest.raises(UsageError, match="was looked at 2 times: a batch belongs to look 2 to 4, not 1"):
        add(130, look=1)


def test_the_fifth_look_is_refused(seeded: Project, add: Callable[..., Path]) -> None:
    for first in (108, 116, 124):
        add(first)
    with pytest.raises(UsageError, match="look 4 to 4, not 5"):
        add(132)
    add(132, look=4)
    assert [look.interval.n for look in read(seeded).courses["C1"].looks] == [8, 16, 24, 40]
    add(124, look=4)  # the same batch once more: it stays where it was
    assert len(read(seeded).batches) == 4


REFUSED: dict[str, tuple[int, dict[str, Any], str]] = {
    "seeds of the run": (104, {}, "does not go with the run: both have seeds 104 to 107"),
    "seeds of another batch": (206, {}, "does not go with batch 200: both have seeds 206 to 207"),
    "other parameters": (300, {"rates": "[0.2]"}, r"rates is \[0.2\] and \[0.001, 0.5\]"),
    "seeds that the run's hyper-parameters were chosen on": (
        108,
        {"tuning_seeds": "3"},
        "tuning_seeds is 3 and 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_batch_that_does_not_go_with_the_run_is_refused_before_it_is_computed(
    seeded: Project, add: Callable[..., Path], case: str
) -> None:
    first, more, why = REFUSED[case]
    add(200)
    with pytest.raises(UsageError, match=why):
        check_batch(judge(seeded), task(seeded, first, **more))


def test_seeds_that_something_was_chosen_on_are_not_judged() -> None:
    run = {"first_seed": 10, "seeds": 3, "tuning_seeds": 2}
    assert disagreement(run | {"first_seed": 13}, run) == "both have seeds 13 to 14"
    assert disagreement(run | {"first_seed": 7}, run) == "both have seeds 10 to 11"
    assert disagreement(run | {"first_seed": 15}, run) == ""
    fixed = run | {
        "first_tuning_seed": 90
    }  # pieces may share what was chosen, if they judge it on other seeds
    assert disagreement(fixed | {"first_seed": 13}, fixed) == ""
    assert disagreement(fixed | {"first_seed": 91}, fixed) == "both have seed 91"


def test_without_a_fresh_run_there_is_no_batch(seeded: Project, put: Callable[..., Path]) -> None:
    place = seeded.published("desk", "toy")
    put("desk", path=place, modules={"faultlines": {"x": "0"}}, ledger=ledger_of(100, 8))
    with pytest.raises(UsageError, match=r"toy · desk is stale \(faultlines.x \(gone\)\)"):
        check_batch(judge(seeded), task(seeded, 108))
    place.unlink()
    with pytest.raises(UsageError, match="toy · desk is missing"):
        check_batch(judge(seeded), task(seeded, 108))


def test_what_was_not_executed_here_is_no_batch(seeded: Project) -> None:
    with pytest.raises(UsageError, match="toy · desk\\+first_seed=108 is missing here"):
        write_batch(judge(seeded), task(seeded, 108))


def test_a_chapter_without_seeds_has_no_batches(checkout: Project, put: Callable[..., Path]) -> None:
    put("desk")
    with pytest.raises(UsageError, match="no parameters first_seed and seeds"):
        check_batch(judge(checkout), task(checkout, 108))


def edited(change: Callable[[dict[str, Any]], None], *, sealed: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        batch = json.loads(path.read_text())
        change(batch)
        if sealed:
            batch["seal"] = Batch.model_validate(batch).digest()
        path.write_text(json.dumps(batch))

    return write


LEFT_OUT: dict[str, tuple[Callable[[Path], None], str]] = {
    "an edited effect": (edited(lambda b: b["ledger"][0]["effects"].append(9.0)), "it was edited"),
    "other code": (edited(lambda b: b.update(code="0", base="0"), sealed=True), "it was made by other code"),
    "another chapter": (edited(lambda b: b.update(chapter="boy"), sealed=True), "it is of boy, run desk"),
    "the run's seeds": (edited(lambda b: b["parameters"].update(first_seed=101), sealed=True), "both have seeds"),
    "no JSON": (lambda path: path.write_text("<<<<<<< ours"), "it cannot be read"),
    "a key that is none": (edited(lambda b: b.update(more=1)), "it cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_file_that_does_not_belong_is_left_out_and_named(
    seeded: Project, add: Callable[..., Path], case: str
) -> None:
    change, why = LEFT_OUT[case]
    change(add(108))
    found = read(seeded)
    assert not found.batches and why in found.left_out["toy-108.json"]
    assert [look.interval.n for look in found.courses["C1"].looks] == [8]
    assert "Batch `toy-108.json` is left out: " in text_of_page(seeded)


def test_a_run_that_was_made_again_by_the_same_code_keeps_its_batches(
    seeded: Project, add: Callable[..., Path], put: Callable[..., Path]
) -> None:
    add(108)
    put("desk", path=seeded.published("desk", "toy"), ledger=ledger_of(100, 8), wall_s=7.0)
    assert len(read(seeded).batches) == 1  # another record, the same code
    put(
        "desk",
        path=seeded.published("desk", "toy"),
        ledger=ledger_of(100, 8),
        modules={"faultlines": {"x": "1"}},
    )
    assert read(seeded).left_out == {"toy-108.json": "it was made by other code than the run"}


def test_a_claim_that_does_not_hang_on_the_seed_is_not_counted_twice(
    seeded: Project, add: Callable[..., Path]
) -> None:
    rows = ledger_of(108, 8)
    rows[1] = ledger_of(100, 8)[1]
    add(108, ledger=rows)
    found = read(seeded)
    assert "C1" in found.courses and "the seed does not enter" in found.not_pooled["C2"]


def test_units_that_are_no_seeds_are_not_pooled(seeded: Project, put: Callable[..., Path]) -> None:
    rows = ledger_of(100, 8, C2=mean_interval(EFFECTS[:20]))
    put("desk", path=seeded.published("desk", "toy"), ledger=rows)
    assert read(seeded).not_pooled["C2"] == "its units are not seeds"


# what readers see


def text_of_page(project: Project) -> str:
    here = judge(project)
    page, _ = result_page(here, RunSpec(here.chapters["toy"], "desk"), "published")
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")


def test_a_run_that_leaves_a_claim_open_says_how_many_seeds_it_would_take(seeded: Project) -> None:
    text = text_of_page(seeded)
    more = read(seeded).courses["C1"].more_seeds()
    assert "## Seeds so far" in text and more
    assert "What this run leaves open" in text and f"  - {more}\n" in text
    assert "* - C1" in text and "* - C2" not in text


def test_the_page_shows_the_pooled_verdicts_and_their_course(
    seeded: Project, add: Callable[..., Path]
) -> None:
    add(108, 30)
    text = text_of_page(seeded)
    assert "This run and a batch have 38 seeds, looked at 2 of at most 4 times" in text
    assert "* - C1" in text and "n = 8: " in text and "; n = 38: " in text
    here = judge(seeded)
    page, _ = result_page(here, RunSpec(here.chapters["toy"], "desk"), "published")
    figure = next(cell for cell in page.cells if "fig-seeds-toy" in str(cell.metadata))
    assert figure.metadata["mystnb"]["figure"]["name"] == "desk-fig-seeds-toy"
    assert figure.outputs[0].data["image/png"].startswith("iVBOR")
    assert figure.metadata["mystnb"]["image"]["alt"]


def test_scoreboard_and_index_say_what_all_pieces_say(seeded: Project, add: Callable[..., Path]) -> None:
    before = index_files(seeded)["results/index.json"]
    assert '"pieces"' not in before
    add(108, 55)
    cell = read_board(seeded, Runs.load(seeded), published=True).chapters[0].claims["C1"]["desk"]
    course = read(seeded).courses["C1"]
    assert cell.row["verdict"] == course.verdict == "holds" and cell.row["ours"] == f"{course.interval:.3g}"
    assert write_index(seeded)
    index, schema = (
        json.loads((seeded.root / "results" / name).read_text())
        for name in ("index.json", "index.schema.json")
    )
    jsonschema.validate(index, schema)
    pieces = index["results"][0]["pieces"]
    assert pieces["batches"][0]["seeds"] == list(range(108, 163)) and "ledger" not in pieces["batches"][0]
    assert (
        pieces["claims"][0] | {"claim": "C1", "looks": [8, 63], "verdict": "holds", "more_seeds": 0}
        == (pieces["claims"][0])
    )
    # the index says the verdict that stands; the notebook alone says what its own seeds do
    row = index["results"][0]["ledger"][0]
    assert (row["verdict"], row["n"]) == ("holds", 63)
    assert read_result(seeded.published("desk", "toy")).ledger[0]["verdict"] == "inconclusive"


# the command line


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_seeds_from_takes_up_what_any_tool_has_executed(seeded: Project, put: Callable[..., Path]) -> None:
    put(
        "desk", overrides={"first_seed": "108"}, ledger=ledger_of(108, 8)
    )  # where `papermill` may have put it
    status, out, err = call("run", "toy", "--run", "desk", "--seeds-from", "108")
    assert (status, err) == (0, "")
    assert "0 to execute, 1 fresh" in out and "toy · batch: results/desk/batches/toy-108.json" in out
    assert batch_file(seeded, task(seeded, 108)).is_file()
    assert (seeded.root / "results" / "index.json").is_file()


USAGE = {
    "no chapter": (["run", "--run", "desk", "--seeds-from", "108"], "needs a chapter"),
    "a sweep": (["run", "toy", "--sweep", "seeds=2,3", "--seeds-from", "108"], "no --sweep"),
    "two first seeds": (["run", "toy", "--seeds-from", "108", "-p", "first_seed=5"], "give one of the two"),
    "a look without a batch": (["run", "toy", "--look", "2"], "say --seeds-from too"),
    "an overlap": (["run", "toy", "--run", "desk", "--seeds-from", "101"], "both have seeds 101 to 107"),
    "a seed that is none": (["run", "toy", "--run", "desk", "--seeds-from", "2000"], "outside 0..1000"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_batch_that_cannot_be_is_a_usage_error(seeded: Project, case: str) -> None:
    words, why = USAGE[case]
    status, _, err = call(*words)
    assert status == 2 and why in err and err.count("\n") == 1
    assert not (seeded.root / "results" / "desk" / "batches").exists()


def test_another_machines_results_are_held_against_ours(
    seeded: Project, put: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "toy.ipynb"
    rows = ledger_of(100, 8)
    put("desk", path=other, ledger=rows, kernel={"device": "CPU, another"})
    status, out, _ = call("claims", "--against", str(other.parent))
    assert status == 0 and "toy · desk: 3 of 3 verdicts are the same on CPU, another" in out
    rows[0] |= {"verdict": "holds", "ours": "0.4 [0.1, 0.7]"}
    put("desk", path=other, ledger=rows, kernel={"device": "CPU, another"})
    status, out, _ = call("claims", "--against", str(other))
    assert status == 1 and "2 of 3 verdicts are the same" in out
    assert "C1 (primary)" in out and "holds 0.4 [0.1, 0.7]" in out
    own = seeded.published("desk", "toy")
    status, _, err = call("claims", "--against", str(own))
    assert status == 2 and "holds no other result" in err
