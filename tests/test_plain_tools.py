"""The tools that people have: papermill, nbval, Jupytext, nbconvert, on the chapters as they stand."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from jupyter_client.manager import start_new_kernel
from nbformat import NotebookNode

import faultlines
from faultlines.notebook.chapters import Chapter, code_cells, has_tag
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.parameters import RANGE, Parameter
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = Project(ROOT, ROOT / "lib" / "faultlines")
CHAPTERS = Chapter.all(PROJECT)
SMOKE = ROOT / "tests" / "notebooks"
RAW_ROLE = re.compile(r"\{[a-z]+(?::[a-z]+)?\}(?:`|<code>)")
REASONS = {
    "filled-in-below",
    "warns-with-a-path",
    "moves-between-machines",
    "moves-at-any-size",
    "holds-times",
}

each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(faultlines.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


# parameters


def bad_values(parameter: Parameter) -> Iterator[Any]:
    yield {"a": 1}
    yield float("nan")
    if parameter.is_list:
        yield []
        yield parameter.default[0]  # one value where a list is asked for
        yield str(parameter.default)  # as papermill's -p would pass it
        yield [[1]]
    else:
        yield [parameter.default]
    wrong = {"int": "many", "float": "some", "str": 3, "bool": 2}[parameter.scalar]
    yield [wrong] if parameter.is_list else wrong
    span = RANGE.match(parameter.allowed)
    kind = {"int": int, "float": float}.get(parameter.scalar)
    if span and kind:
        low = kind(float(span["low"]) - 1)
        yield [low] if parameter.is_list else low
        if span["high"]:
            high = kind(float(span["high"]) + 1)
            yield [*parameter.default, high] if parameter.is_list else high
    elif parameter.allowed:
        yield ["no such thing"] if parameter.is_list else "no such thing"


def bad_sets(chapter: Chapter, number: int) -> list[tuple[str, Any]]:
    cases = [(p.name, value) for p in chapter.parameters for value in bad_values(p)]
    cases += [(p.name[:-1] + "zz", p.default) for p in chapter.parameters]  # mistyped names
    random.Random(0).shuffle(cases)
    return cases[:number]


@each_chapter
def test_no_bad_parameter_gets_past_the_check(name: str) -> None:
    chapter = CHAPTERS[name]
    cells = code_cells(chapter.notebook())
    at = next(n for n, cell in enumerate(cells) if has_tag(cell, "parameters"))
    assert cells[at + 1].source == "notebook.check_parameters()"
    first = [cells[0].source, cells[at].source]
    manager, client = start_new_kernel(env=environment())

    def run(source: str) -> str:
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "error":
                said.append(f"{message['content']['ename']}: {message['content']['evalue']}")

        client.execute_interactive(source, timeout=120, output_hook=hear)
        return "".join(said)

    try:
        for parameter, value in bad_sets(chapter, 40):
            assert "".join(map(run, first)) == ""
            text = "float('nan')" if value != value else repr(value)
            assert run(f"# Parameters\n{parameter} = {text}\n") == ""
            answer = run("notebook.check_parameters()")
            assert answer.startswith("UsageError"), (parameter, value, answer)
            assert parameter in answer and "\n" not in answer
        assert "".join(map(run, [*first, "notebook.check_parameters()"])) == ""
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@each_chapter
def test_papermill_is_refused_in_the_first_cells(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in.ipynb"
    nbformat.write(CHAPTERS[name].notebook(), source)
    words = ["--no-progress-bar", str(source), str(tmp_path / "out.ipynb"), "-p", "sedes", "3"]
    done = subprocess.run(
        [program("papermill"), *words], capture_output=True, text=True, env=environment(), cwd=tmp_path
    )
    assert done.returncode != 0
    assert "UsageError: this notebook has no parameter 'sedes'; did you mean 'seeds'?" in done.stderr
    executed = [c for c in code_cells(nbformat.read(tmp_path / "out.ipynb", 4)) if c.execution_count]
    assert len(executed) <= 7


RULES = {
    "softmax-lipschitz": {"patch_size": 3}, "differential-attention": {"n_heads": 5},
    "linearized-attention": {"classes": ["3 8"]}, "attribution-robustness": {"small_steps": [0.1]},
    "ex2l": {"patch": 65}, "crossover": {"heads": 5},
    "card": {"weights": "net.safetensors", "target": "relu"},
}  # fmt: skip


@each_chapter
def test_what_cannot_go_together_is_refused_by_the_rules_of_the_cell(name: str) -> None:
    from faultlines.notebook.errors import UsageError
    from faultlines.notebook.parameters import resolve

    chapter = CHAPTERS[name]
    assert resolve(chapter.parameters, {}, name, {}, chapter.rules)
    with pytest.raises(UsageError, match="must be: "):
        resolve(chapter.parameters, RULES[name], name, {}, chapter.rules)


# the text and the notebook


@each_chapter
def test_text_and_notebook_are_one_document(name: str) -> None:
    ours, theirs = CHAPTERS[name].notebook(), nbformat.read(PROJECT.published("default", name), 4)

    def content(notebook: NotebookNode) -> list[tuple[str, str, Any]]:
        return [(c.cell_type, c.source, dict(c.metadata)) for c in notebook.cells]

    assert content(theirs) == content(ours), f"faultlines sync {name} brings the text into the notebook"


@pytest.mark.parametrize("newer", [".md", ".ipynb"])
def test_a_sync_changes_nothing(newer: str, tmp_path: Path) -> None:
    (tmp_path / "chapters").mkdir()
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    files = [p for name in CHAPTERS for p in (CHAPTERS[name].path, PROJECT.published("default", name))]
    before = {}
    for number, path in enumerate(files):
        copy = tmp_path / "chapters" / path.name
        shutil.copy(path, copy)
        os.utime(copy, (2e9 + number, 2e9 + number + (500 if copy.suffix == newer else 0)))
        before[copy] = copy.read_text()
    texts = sorted(map(str, (tmp_path / "chapters").glob("*.md")))
    subprocess.run([program("jupytext"), "--sync", *texts], check=True, capture_output=True, cwd=tmp_path)
    for path, text in before.items():
        if path.suffix == ".md":
            assert path.read_text() == text, f"a sync changes {path.name}"
        else:
            now, then = nbformat.read(path, 4), nbformat.reads(text, 4)
            for cell in (*now.cells, *then.cells):
                cell.pop("id", None)
            assert now.cells == then.cells, f"a sync changes {path.name}"


@each_chapter
def test_the_source_is_in_jupytexts_own_form(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    shutil.copy(CHAPTERS[name].path, tmp_path / f"{name}.md")
    words = ["--to", "md:myst", "--output", "-", f"{name}.md"]
    done = subprocess.run(
        [program("jupytext"), *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    # its own release, which jupytext.toml keeps out of the files
    told = re.sub(r"^    jupytext_version: .*\n", "", done.stdout, flags=re.MULTILINE)
    assert told.strip() == CHAPTERS[name].path.read_text().strip()


@each_chapter
def test_a_bare_notebook_has_no_raw_role(name: str) -> None:
    from nbconvert import HTMLExporter

    notebook = nbformat.read(PROJECT.published("default", name), 4)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    # what a cell of code says in its text is code
    shown = re.sub(r'<div class="highlight.*?</div>|<script.*?</script>', "", page, flags=re.DOTALL)
    assert not RAW_ROLE.search(shown), RAW_ROLE.search(shown)


def test_a_lone_notebook_says_how_to_get_its_library(tmp_path: Path) -> None:
    first = code_cells(CHAPTERS["crossover"].notebook())[0].source
    (tmp_path / "lone.py").write_text(
        "import sys\nclass Missing:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'faultlines':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name='faultlines')\n"
        "sys.meta_path.insert(0, Missing())\n" + first
    )
    done = subprocess.run([sys.executable, "lone.py"], capture_output=True, text=True, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: this notebook needs its library: pip install")


def test_the_first_cell_holds_the_address_of_the_book() -> None:
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for chapter in CHAPTERS.values():
        assert f'address = "{url}"' in code_cells(chapter.notebook())[0].source


# nbval


def test_an_output_that_is_not_compared_says_why() -> None:
    for name, chapter in CHAPTERS.items():
        cells = code_cells(chapter.notebook())
        for cell in cells:
            tags = set(cell.metadata.get("tags", []))
            assert ("nbval-ignore-output" in tags) == bool(tags & REASONS), (name, cell.source[:60])
        compared = [c for c in cells if not has_tag(c, "nbval-ignore-output")]
        assert 2 * len(compared) >= len(cells), name


@each_chapter
def test_the_smoke_run_that_nbval_executes_is_the_chapters(name: str) -> None:
    judge = Freshness(PROJECT, Runs.load(PROJECT))
    state = judge.state(RunSpec(CHAPTERS[name], "smoke"), "published")
    assert state.name == "fresh", (
        f"{state.changes}: faultlines run {name} --run smoke, then publish --run smoke"
    )


def test_a_smoke_run_in_the_chapters_place_is_foreign(tmp_path: Path) -> None:
    shutil.copy(SMOKE / "crossover.ipynb", tmp_path / "crossover.ipynb")
    judge = Freshness(PROJECT, Runs.load(PROJECT))
    state = judge.judge(RunSpec(CHAPTERS["crossover"], "default"), tmp_path / "crossover.ipynb")
    assert state.name == "foreign"
    assert any(change.startswith("parameter ") for change in state.changes)


def falsify(output: NotebookNode) -> bool:
    """Change one digit or word of what an output says; return whether there was one."""
    data = {"text": output.text} if output.output_type == "stream" else output.data
    mime = next((m for m in ("text/html", "text/markdown", "text/plain", "text") if m in data), None)
    if mime is None:
        return False
    text = data[mime]
    changed = re.sub(r"\d(?=\D*$)", lambda d: str((int(d[0]) + 1) % 10), text, count=1)
    if changed == text:
        changed = text + " or not"
    if output.output_type == "stream":
        output.text = changed
    else:
        output.data[mime] = changed
    return True


def test_each_of_twenty_falsified_outputs_is_caught(tmp_path: Path) -> None:
    caught = wanted = 0
    for name in ("linearized-attention", "crossover"):
        notebook = nbformat.read(SMOKE / f"{name}.ipynb", 4)
        numbers = []
        for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
            if has_tag(cell, "nbval-ignore-output") or not cell.outputs or len(numbers) >= 14:
                continue
            if falsify(cell.outputs[0]):
                numbers.append(number)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        words = ["-q", "-rA", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", f"{name}.ipynb"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment(),
        )
        failed = {int(n) for n in re.findall(r"^FAILED \S+::Cell (\d+)", done.stdout, re.MULTILINE)}
        assert failed == set(numbers), done.stdout[-3000:]
        caught, wanted = caught + len(failed), wanted + len(numbers)
    assert caught == wanted >= 20
