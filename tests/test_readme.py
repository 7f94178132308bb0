"""What README and book say is done as it stands: the library's lines run; commands, options and values are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.chapters import CLAIMING
from typer.main import get_command

import faultlines
from faultlines.book.publish import PICTURES
from faultlines.cli.app import app
from faultlines.models import record
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = Project(ROOT, ROOT / "lib" / "faultlines")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOOK = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "chapters").glob("*.md"))]


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


LINES = commands(README)
OURS = {
    shlex.join(words[words.index("faultlines") :]): words[words.index("faultlines") :]
    for path in BOOK
    for words in commands(path.read_text(encoding="utf-8"))
    if "faultlines" in words
}


def test_it_is_short_and_shows_what_was_found() -> None:
    assert len(README.encode()) <= 8000
    for path in re.findall(r'(?:\]\(|src(?:set)?=")(?!https?:)([^)"#]+)', README):
        assert (ROOT / path).exists(), path
    [picture] = re.findall(r"<picture>.*?</picture>", README, re.DOTALL)
    assert set(re.findall(r'(?:srcset|src)="_static/([^"]+)"', picture)) == set(PICTURES)
    assert "(prefers-color-scheme: dark)" in picture and len(re.findall(r'alt="([^"]*)"', picture)[0]) > 60
    first = README.split("\n\n")[2]
    assert len(re.findall(r"\.(?: |$)", first)) == 3, "what it is, in three sentences"
    answers = re.findall(r"^- \*\*\[[^]]+\]\(chapters/([\w-]+)\.ipynb\)\*\*.*?: (.*)$", README, re.MULTILINE)
    assert {name for name, _ in answers} == set(CLAIMING)
    for name, said in answers:
        assert said.endswith(".") and len(said) < 300 and ". " not in said, (name, said)
    lines = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0].splitlines()
    assert len([line for line in lines if line and not re.match("import|from", line)]) <= 10


def test_the_lines_of_library_run_as_they_stand(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "lines.py").write_text(code + "\nassert result.success.shape == y_test.shape\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(faultlines.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "lines.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", OURS)
def test_our_commands_and_their_options_are_there(line: str) -> None:
    words = OURS[line]
    command = get_command(app).commands[words[1]]
    command.make_context(words[1], words[2:], resilient_parsing=True)
    runs = Runs.load(PROJECT)
    chapters = Chapter.all(PROJECT)
    chapter = chapters.get(words[1])  # `faultlines card` executes one
    for word in words[2:]:
        name, equals, value = word.partition("=")
        if word in chapters:
            chapter = chapters[word]
        elif equals and "," not in value and ".." not in value:
            run = words[words.index("--run") + 1] if "--run" in words else "default"
            assert chapter and runs.parameters(run, chapter, {name: value})
        elif equals:
            assert chapter and name in [parameter.name for parameter in chapter.parameters]


def test_the_other_commands_are_programs_of_the_environment() -> None:
    programs = {next(word for word in words if "=" not in word) for words in LINES if words}
    assert {"papermill", "pytest", "jupytext", "jupyter-book", "make", "faultlines"} <= programs
    for name in programs - {"make"}:
        assert Path(sys.executable).with_name(name).is_file(), name


def test_the_papermill_line_runs_to_the_check(tmp_path: Path) -> None:
    # with one more parameter, which no chapter has: everything before the check has run
    lines = [words for words in LINES if words[:1] == ["jupytext"] and "in.ipynb" in words]
    lines += [words for words in LINES if words[:1] == ["papermill"] and "-p" in words]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(faultlines.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "chapters").symlink_to(ROOT / "chapters")
    said = ""
    for program, *words in lines:
        extra = ["-p", "no_such", "1"] if program == "papermill" else []
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *words, *extra],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        said += done.stderr
    assert "UsageError: this notebook has no parameter 'no_such'" in said


RECIPES = dict(
    re.findall(
        r"^## (.*?)\n\n```python\n(.*?)```",
        (ROOT / "recipes.md").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs_in_an_empty_script(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "torchvision" in RECIPES[title]:
        pytest.importorskip("torchvision")
    assert len(RECIPES[title].splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(RECIPES[title], title, "exec"), {"__name__": "script"})


def test_the_maps_that_a_recipe_records_are_those_that_multiply_the_values() -> None:
    """The maps of timm's and of torchvision's first layer, against the layer's own weights in plain operations."""
    pytest.importorskip("torchvision")
    for title in ("Record the maps of a timm model", "Record the maps of a torchvision model"):
        made: dict[str, Any] = {}
        torch.manual_seed(0)
        exec(compile(RECIPES[title], title, "exec"), made)
        model, seen = made["model"], []
        is_timm = hasattr(model, "blocks")
        block = model.blocks[0] if is_timm else model.encoder.layers[0]
        norm, layer = (block.norm1, block.attn) if is_timm else (block.ln_1, block.self_attention)
        weight, bias = (
            (layer.qkv.weight, layer.qkv.bias) if is_timm else (layer.in_proj_weight, layer.in_proj_bias)
        )
        norm.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
        with record() as tape:
            model(torch.rand(2, 3, 32, 32))
        q, k, _ = (seen[0] @ weight.T + bias).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        assert torch.allclose(tape.maps[0], (q @ k.mT / 8**0.5).softmax(-1), atol=1e-6)
        assert len(tape.maps) == 2
