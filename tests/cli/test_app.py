"""Usage errors: one line, exit status 2, and no kernel; and what the small commands say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faultlines.cli.app import app
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project

TOY_LINE = "seeds: int = 5  # paired seeds [2..64]"


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


USAGE = {
    "a mistyped parameter": (["toy", "-p", "sedes=3"], "no parameter 'sedes'; did you mean 'seeds'?"),
    "a wrong type": (["toy", "-p", "seeds=many"], "seeds='many' cannot be read as int"),
    "a fraction for an int": (["toy", "-p", "seeds=2.5"], "seeds='2.5' cannot be read as int"),
    "out of range": (["toy", "-p", "seeds=65"], "seeds=65 is outside 2..64"),
    "out of range in a list": (["toy", "-p", "rates=[0.1, 3]"], "rates=3.0 is outside 0..1"),
    "not finite": (["toy", "-p", "rates=[nan]"], "is not a finite number"),
    "a number for a list": (
        ["toy", "-p", "rates=0.3"],
        "rates='0.3' cannot be read as list[float] (a list is written",
    ),
    "a parameter that no chapter has": (["-p", "sedes=3"], "no chapter has a parameter 'sedes'"),
    "no choice of the list": (["toy", "-p", "mode=fast"], "mode='fast' is not one of ok, slow"),
    "an unknown chapter": (["tot"], "unknown chapter 'tot': it is one of toy"),
    "an unknown run": (
        ["toy", "--run", "dusk"],
        "unknown run 'dusk': it is one of default, smoke, desk, paper",
    ),
    "a run that the chapter has not": (["toy", "--run", "paper"], "toy has no run 'paper'"),
    "an unknown data set": (["toy", "-p", "dataset=imagenette"], "dataset='imagenette'"),
    "an unknown device": (["toy", "-p", "device=gpu"], "a device is auto, cpu, cuda or cuda:N"),
    "half a device": (["toy", "-p", "device=cuda:"], "a device is auto, cpu, cuda or cuda:N"),
    "a device that is not there": (["toy", "-p", "device=cuda:63"], "CUDA devices"),
    "no equals sign": (["toy", "-p", "seeds"], "-p 'seeds' is not of the form name=value"),
    "no name": (["toy", "-p", "=3"], "is not of the form name=value"),
    "the same twice": (["toy", "-p", "seeds=3", "-p", "seeds=4"], "'seeds' is given twice"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_usage_error_is_one_line_and_starts_nothing(checkout: Project, case: str) -> None:
    words, complaint = USAGE[case]
    status, out, err = call("run", *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("faultlines: ")
    assert complaint in err
    assert not checkout.build.exists()


BROKEN = {
    "a run group that is no mapping": ("runs.yml", "default: 3\n"),
    "nothing": ("runs.yml", ""),
    "no YAML": ("runs.yml", "default: {purpose: [\n"),
    "no text": ("runs.yml", b"\xff\xfe\x00"),
    "a key that is none": ("runs.yml", "default: {purpose: a, budget: b, chapter: {}}\n"),
    "a name that the chapter has not": (
        "runs.yml",
        "default: {purpose: a, budget: b, chapters: {toy: {sedes: 1}}}\n",
    ),
    "a value out of range": ("runs.yml", "default: {purpose: a, budget: b, chapters: {toy: {seeds: 1}}}\n"),
    "a computed default": ("chapters/toy.md", "seeds: int = 2 + 3"),
    "no annotation": ("chapters/toy.md", "seeds = 5"),
    "no parameters cell": ("chapters/toy.md", None),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line(checkout: Project, case: str) -> None:
    name, content = BROKEN[case]
    path = checkout.root / name
    if name == "runs.yml":
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif content is None:
        path.write_text(path.read_text().replace(":tags: [parameters]\n", ""))
    else:
        path.write_text(path.read_text().replace(TOY_LINE, content))
    status, _, err = call("run", "toy")
    assert status == 2
    assert err.count("\n") == 1 and err.startswith("faultlines: ")
    assert not checkout.build.exists()


def test_outside_a_checkout_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faultlines.notebook import project

    monkeypatch.setattr(project, "MARKS", ("_toc.yml", "no-such-file"))
    monkeypatch.setenv("FAULTLINES_ROOT", str(tmp_path))
    status, _, err = call("status")
    assert status == 2
    assert "FAULTLINES_ROOT" in err


def test_a_chapter_named_twice_is_one_chapter(checkout: Project) -> None:
    assert len(Chapter.named(checkout, ["toy", "toy"])) == 1


def test_what_is_fresh_is_not_executed(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    assert call("run") == (0, "0 to execute, 1 fresh\n", "")


def test_here_does_not_count_what_came_with_the_clone(
    checkout: Project, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from faultlines.runner import local_pool

    asked: list[str] = []
    monkeypatch.setattr(
        local_pool.LocalPool, "run", lambda self, work: asked.extend(t.label for t, _ in work) or []
    )
    put(path=checkout.published("default", "toy"))
    assert call("run")[1] == "0 to execute, 1 fresh\n"
    assert asked == []
    assert call("run", "--here")[1] == "1 to execute, 0 fresh\n"
    assert call("run", "--force")[1] == "1 to execute, 0 fresh\n"
    assert asked == ["default", "default"]


def test_status_tells_what_changed(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    put("desk", modules={"faultlines.notebook": {"begin": "0"}, "faultlines.gone": {"f": "1"}})
    status, out, _ = call("status")
    rows = {line.split()[1]: line for line in out.splitlines()[1:]}
    assert status == 0
    assert "fresh" in rows["default"] and "1 min 35 s" in rows["default"]
    assert (
        "stale" in rows["desk"]
        and "faultlines.gone.f (gone), faultlines.notebook.begin (gone)" in rows["desk"]
    )
    assert "missing" in rows["smoke"]
    assert "paper" not in rows


def test_status_bears_odd_records(checkout: Project, put: Callable[..., Path]) -> None:
    put(kernel={"device": "[/nonsense]"}, modules={"faultlines[/red]": {"f": "0"}})
    status, out, _ = call("status")
    assert status == 0
    assert "[/nonsense]" in out and "faultlines[/red].f (gone)" in out


NO_RESULT = {
    "nothing": ("", "it is empty"),
    "half": ('{"cells": [', "it is no complete notebook"),
    "a conflict": ("<<<<<<< HEAD\n{}\n", "it holds the marks of a merge conflict"),
    "something else": ("[1, 2]", "it is no complete notebook"),
}


@pytest.mark.parametrize("what", NO_RESULT)
def test_what_cannot_be_read_is_not_missing(checkout: Project, what: str) -> None:
    text, reason = NO_RESULT[what]
    checkout.published("default", "toy").write_text(text)
    row = next(line for line in call("status")[1].splitlines() if " default " in line)
    assert "unreadable" in row and reason in row
    assert f"left out: chapters/toy.ipynb is unreadable: {reason}" in call("claims")[2]


def test_a_foreign_result_is_said_to_be_one(checkout: Project, put: Callable[..., Path]) -> None:
    path = put()
    path.write_text(path.read_text().replace("6\\n", "7\\n"))
    assert "foreign" in call("status")[1]
    assert "left out: _build/runs/default/toy.ipynb is foreign" in call("claims")[2]


def test_without_a_chapter_a_parameter_is_for_all_or_the_error_names_who_has_it(checkout: Project) -> None:
    other = (checkout.chapters / "toy.md").read_text().replace(TOY_LINE, "n: int = 3  # images [1..9]")
    (checkout.chapters / "other.md").write_text(other.replace("toy", "other"))
    status, out, err = call("run", "-p", "seeds=3")
    assert (status, out) == (2, "")
    assert "not all have seeds: faultlines run toy -p seeds=..." in err
    assert "no chapter has all of seeds, n" in call("run", "-p", "seeds=3", "-p", "n=2")[2]
    assert "no chapter has a parameter 'sedes'" in call("run", "-p", "seeds=3", "-p", "sedes=2")[2]
    assert not checkout.build.exists()


def test_claims_show_the_ledger(checkout: Project, put: Callable[..., Path]) -> None:
    assert "no chapter has a result yet" in call("claims")[1]
    put()
    out = call("claims", "toy")[1]
    assert "C1" in out and "holds" in out and "3 [1, 5]" in out
    assert call("claims", "tot")[0] == 2


def test_publish_refuses_what_is_not_fresh(checkout: Project, put: Callable[..., Path]) -> None:
    (checkout.root / "README.md").write_text("# Toy\n")
    status, _, err = call("publish", "toy")
    assert (status, "toy · default is missing here" in err) == (2, True)
    put()
    status, out, _ = call("publish", "toy")
    assert (status, out) == (0, "chapters/toy.ipynb: published\n")
    assert call("publish", "toy")[1] == "chapters/toy.ipynb: as it was\n"


def test_data_names_its_sets(checkout: Project) -> None:
    assert call("data", "digits")[0] == 0
    status, _, err = call("data", "imagenette")
    assert status == 2
    assert "unknown data set 'imagenette'" in err


def test_folders_of_pictures_are_data_sets_too(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from faultlines.cli.machine import examine

    monkeypatch.setenv("FAULTLINES_DATA", str(checkout.root))
    status, out, _ = call("data", "spawrious")
    assert status == 1
    assert "not here" in out and "github.com/aengusl/spawrious" in out and "fashion_mnist" not in out
    birds = checkout.root / "waterbird_complete95_forest2water2"
    birds.mkdir()
    (birds / "metadata.csv").write_text("")
    status, out, _ = call("data", "waterbirds")
    assert (status, out.splitlines()[1]) == (
        0,
        f"waterbirds: pictures for faultlines.data.load_waterbirds: folder, {birds}",
    )
    status, out, _ = call("data")
    assert status == 0
    assert "\nspawrious: " in out and "\nwaterbirds: " in out
    found = {what: finding for what, finding, _ in examine(checkout)}
    assert found["data set spawrious"] == "not here"
    assert found["data set waterbirds"] == str(birds)


SPOILT = {
    "a tag": ["rates=!!binary aGk=", "rates=[!!binary aGk=]", "rates=!!python/object:os.system [1]"],
    "anchors": ["rates=[&a 0.1, *a]", "rates=&a [*a]"],
    "lists in lists": ["rates=[[0.1]]", f"rates={'[' * 5000}{']' * 5000}", f"rates={'[' * 400}", "rates=[]"],
    "mappings": ["rates={a: 1}", "rates=[{a: 1}]", "seeds={a: 1}"],
    "more than one document": ["rates=[0.1]\n---\n[0.2]", "seeds=3\n4"],
    "words outside a fixed choice": ["mode=../x", "mode=", "mode=OK", "device=gpu", "dataset=../x"],
    "numbers that are none": ["seeds=0x3", "seeds=1e400", "rates=[1e400]", "rates=[inf]", "seeds=\u0663\u0663\u0663"],
    "bytes that are no text": ["mode=\udcff", "dataset=\udcff", "rates=[\udcff]", "seeds=\x00"],
    "far too long": [f"mode={'x' * 100_000}", f"rates={'[0.1,' * 20_000}", f"seeds={'9' * 100_000}", "x" * 100_000],
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_value_is_one_line_and_not_repeated_whole(checkout: Project, kind: str) -> None:
    for word in SPOILT[kind]:
        status, out, err = call("run", "toy", "-p", word)
        assert (status, out) == (2, ""), word[:50]
        assert err.count("\n") == 1 and err.startswith("faultlines: ") and len(err) < 500, word[:50]
    assert not checkout.build.exists()
