"""A sweep on this machine, from the command line to the gathered notebook."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from faultlines.cli.app import app
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project
from faultlines.reporting.gathered import Gathered
from faultlines.runner.sweep import Sweep

CELL = """\
from faultlines.reporting import Ledger, mean_interval

if total == 6:
    raise ValueError("five is not allowed")
ledger = Ledger()
ledger.state("C1", "the rate counts", paper="", test="mean above 0")
ledger.state("C2", "never run", paper="", test="mean above 0")
ledger.settle("C1", mean_interval([total, total + 0.1, total - 0.1]))
ledger.leave("C2", "not here")
ledger.table()"""


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["run", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


USAGE = {
    "no axis": (["toy", "--sweep"], "--sweep needs a chapter and an axis"),
    "no chapter": (["--sweep", "seeds=2,3"], "--sweep needs a chapter and an axis"),
    "an axis without --sweep": (["toy", "seeds=2,3"], "say --sweep, or give one value with -p"),
    "an axis that is fixed too": (["toy", "--sweep", "seeds=2,3", "-p", "seeds=4"], "drop one of the two"),
    "a value out of range": (["toy", "--sweep", "seeds=0..3"], "seeds=0 is outside 2..64"),
    "a mistyped axis": (["toy", "--sweep", "sedes=2,3"], "did you mean 'seeds'?"),
    "an unknown data set": (["toy", "--sweep", "dataset=digits,imagenette"], "dataset='imagenette'"),
    "an executor there is not": (["toy", "--executor", "cloud"], "cloud"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_bad_sweep_starts_nothing(checkout: Project, case: str) -> None:
    words, complaint = USAGE[case]
    status, _, err = call(*words)
    assert status == 2 and complaint in err
    assert not checkout.build.exists()


def test_a_sweep_keeps_what_runs_and_repeats_only_what_is_missing(checkout: Project, toy: Chapter) -> None:
    path = checkout.chapters / "toy.md"
    path.write_text(path.read_text().replace("ledger.table()", CELL))
    status, out, err = call("toy", "--sweep", "seeds=4,5,6", "-j", "2")
    assert status == 1 and "3 to execute, 0 fresh" in out
    assert "seeds=5 failed in cell 7: ValueError: five is not allowed" in err
    status, out, _ = call("toy", "--sweep", "seeds=4,6")
    assert status == 0 and "0 to execute, 2 fresh" in out

    sweep = Sweep(Chapter.all(checkout)["toy"], "default", {"seeds": ["4", "6"]})
    folder = sweep.folder(checkout)
    notebook = json.dumps(json.loads((folder / "gathered.ipynb").read_text())["cells"])
    assert "image/png" in notebook and "2 holds" in notebook
    gathered = Gathered.read(str(folder / "gathered.json"))
    assert gathered.claims() == ["C1"] and gathered.drawable() == ["C1"]
    estimates = {at["seeds"]: row["estimate"] for at, row in gathered.of("C1")}
    assert estimates == pytest.approx({"4": 5.0, "6": 7.0})
    (line,) = gathered.along("seeds").rows
    assert line == ("**C1**", "5", "7 (difference +2)")

    partly = Sweep(Chapter.all(checkout)["toy"], "default", {"seeds": ["4", "5", "6"]})
    said = Gathered.read(str(partly.folder(checkout) / "gathered.json")).summary()
    assert "3 runs" in said and "1 of them have no result" in said
