"""`faultlines card` from an empty folder: a page and a card.json that its schema holds; bad targets; cards compared."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import jupytext
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from PIL import Image
from typer.testing import CliRunner

import faultlines
from faultlines.cli.app import app
from faultlines.cli.card import CARD, cell_of
from faultlines.cli.card import card as card_command
from faultlines.notebook.chapters import code_cells
from faultlines.notebook.parameters import read_parameters
from faultlines.studies.card import REFERENCES, Setting, data_for

SMALL = ["-p", "train_size=64", "-p", "test_size=80", "-p", "epochs=40", "-p", "loss=1.9", "-p", "steps=2"]
CHAPTER = Path(__file__).resolve().parents[2] / "chapters" / "card.md"
SCHEMA = json.loads((Path(faultlines.__file__).parent / "studies" / "card_schema.json").read_text())
MINE = """
import torch
from torch import nn

def mine(q, k, v):
    maps = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return maps @ v, maps

def narrow(q, k, v):
    return v[..., :1]

def hard(q, k, v):
    return nn.functional.one_hot((q @ k.mT).argmax(-1), k.shape[-2]).float() @ v.detach()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.f = nn.Linear(64, 10)

    def forward(self, x):
        return (self.f(x.flatten(1)), None)

class Bad(Net):
    def forward(self, x):
        return super().forward(x)[0].detach()

def net():
    return Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAULTLINES_ROOT", raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_mechanism_and_a_classifier_from_an_empty_folder(folder: Path) -> None:
    for target, name in (("mine.py:mine", "mechanism"), ("mine.py:net", "classifier")):
        status, said = command("card", target, "--seeds", "2", "--folder", name, *SMALL)
        assert status == 0, said
        assert f"a {name}, " in said.replace("\n", " ")
        card = json.loads((folder / name / "card.json").read_text())
        jsonschema.validate(card, SCHEMA)
        assert card["kind"] == name and card["setting"]["train_size"] == 64
        page = nbformat.read(folder / name / "card.ipynb", 4)
        images = [o for c in page.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
        assert len(images) == 1
    mechanism = json.loads((folder / "mechanism" / "card.json").read_text())
    for probe in mechanism["probes"].values():  # the same formula as softmax, to rounding
        assert probe["attack"] == pytest.approx(probe["references"]["softmax"], abs=0.05)
        assert abs(probe["more_than_softmax"]["estimate"]) < 0.05
    assert set(card["left_out"]) == {"attention layer", "attention map"}
    status, said = command("cards", "mechanism/card.json", "classifier/card.json")
    assert status == 0 and "mine.py:mine" in said and "left out" in said and "gradient map" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.py:Bad"], "no gradient to the image"),
        (["mine.py:nothing"], "mine.py has no nothing"),
        (["softmaks"], "neither file.py:Name"),
        (["mine.py:mine", "--data", "nowhere"], "nowhere"),
        (["mine.py:mine", "--data", "nowhere.npz"], "is no file"),
        (["mine.py:mine", "--weights", "mine.py"], "weights='mine.py' are for a classifier"),
        (["relu", "--weights", "mine.py"], "weights are for a classifier of your own"),
        (["mine.py:net", "--weights", "w.pt"], "parameter weights='w.pt': there is no such file"),
        (["mine.py:net", "--weights", "mine.py"], "mine.py"),
        (["mine.py:mine", "-p", "speed=3"], "a card has no parameter 'speed'"),
        (["mine.py:mine", "-p", "radius=3"], "radius"),
    ],
)
def test_a_bad_request_is_one_line_before_a_kernel_starts(folder: Path, words: list[str], said: str) -> None:
    status, output = command("card", *words)
    assert status == 2 and said in output
    assert len(output.strip().splitlines()) == 1
    assert not (folder / "card").exists()


def test_the_card_is_a_notebook_that_papermill_takes_and_its_parameters_fit_the_command() -> None:
    notebook = jupytext.read(CARD, fmt="md:myst")
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    declared = {p.name: p for p in read_parameters(cell.source)}
    assert {"target", "dataset", "weights", "seeds", "folder"} <= set(declared)
    fields = set(Setting.__dataclass_fields__)
    assert set(declared) - {"target", "weights", "seeds", "folder"} <= fields
    options = inspect.signature(card_command).parameters
    for option, name in (("data", "dataset"), ("weights", "weights"), ("seeds", "seeds")):
        assert options[option].default == declared[name].default


def test_the_command_executes_the_chapter_itself() -> None:
    assert CARD.resolve() == CHAPTER


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(faultlines.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def papermill(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Execute the chapter as someone does who has papermill and a file of their own."""
    nbformat.write(jupytext.read(CHAPTER), folder / "card.ipynb")
    return subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", "card.ipynb", "out.ipynb", *words],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_plain_papermill_makes_the_card_of_a_file_in_the_working_directory(folder: Path) -> None:
    small = [word for option in SMALL[1::2] for word in ("-p", *option.split("="))]
    done = papermill(
        folder, *small, "-p", "target", "mine.py:mine", "-p", "seeds", "2", "-p", "folder", "mine"
    )
    assert done.returncode == 0, done.stderr
    shown = json.dumps(nbformat.read(folder / "out.ipynb", 4).cells)
    assert "**mine** is a mechanism, trained until its loss is at most 1.9" in shown
    assert "How these numbers were made" in shown and "image/png" in shown
    jsonschema.validate(json.loads((folder / "mine" / "card.json").read_text()), SCHEMA)


REFUSED = {
    "mine.py:hard": "has no gradient to any of them (detach, no_grad or argmax?)",
    "mine.py:nothing": "target='mine.py:nothing': mine.py has no nothing",
    "mypackage.mymodule:Mine": "target: mypackage.mymodule cannot be imported: ModuleNotFoundError: ",
    "mine.py:narrow": "returns shape (2, 2, 17, 1); [batch, head, query, value_dim] is needed",
    "mine.py:Bad": "has no gradient to the image (detach, no_grad or argmax?): no attack can see it",
}


def test_plain_papermill_refuses_a_bad_target_in_the_first_cells(folder: Path) -> None:
    target = next(iter(REFUSED))
    done = papermill(folder, "-p", "target", target)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("UsageError: target") and REFUSED[target] in line
    cells = code_cells(nbformat.read(folder / "out.ipynb", 4))
    [error] = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert error.traceback == [line]  # the notebook says no more than that


def test_before_the_cell_that_trains_a_good_target_is_found_and_a_bad_one_is_one_line(folder: Path) -> None:
    sources = [cell.source for cell in code_cells(jupytext.read(CHAPTER))]
    at = next(n for n, source in enumerate(sources) if "measure_target(" in source)
    manager, client = start_new_kernel(env=environment(), cwd=str(folder))
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "error":
            said.extend(message["content"]["traceback"])

    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "mine.py").write_text(MINE)
    try:
        for target, why in {**REFUSED, "mypackage.mine:mine": None, "mine.py:mine": None}.items():
            said.clear()
            for source in sources[:at]:
                parameters = "target: str =" in source
                client.execute_interactive(source, timeout=120, output_hook=hear)
                if parameters:
                    client.execute_interactive(f"# Parameters\ntarget = {target!r}\n", timeout=120)
            if why is None:
                assert not said
            else:
                [line] = said
                assert line.startswith("UsageError: target") and why in line
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_folder_of_images_by_class_is_a_data_set(tmp_path: Path) -> None:
    for shade, name in ((20, "dark"), (220, "light")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(10):
            Image.new("L", (40, 30), shade + n).save(tmp_path / "set" / name / f"{n}.png")
    data = data_for(str(tmp_path / "set"))
    assert data.classes == ("dark", "light") and data.image_shape == (3, 32, 32)
    assert len(data.x_train) == 16 and data.y_test.tolist() == [0, 0, 1, 1]
    assert (data.x_test[data.y_test == 1] > 0.8).all()
    with pytest.raises(ValueError, match="0 images in 0 folders"):
        data_for(str(tmp_path / "set" / "dark"))


def test_cards_say_what_they_cannot_read_or_compare(folder: Path) -> None:
    (folder / "bad.json").write_text("{}")
    status, said = command("cards", "bad.json")
    assert status == 2 and "bad.json is no card" in said
    probe = {"attack": [1.0, 2.0], "more_than_softmax": {"estimate": 0.5, "low": 0.1, "high": 0.9}}
    assert cell_of(probe) == "1.50 (+0.50, +0.10 to +0.90)"
    for name, radius in (("a", 0.1), ("b", 0.2)):
        card = {"target": name, "setting": {"radius": radius}, "probes": {"logits": probe}}
        (folder / f"{name}.json").write_text(json.dumps(card))
    status, said = command("cards", "a.json", "b.json")
    assert status == 0 and "different settings" in said and "1.50 (+0.50" in said


def test_the_command_needs_no_checkout(folder: Path) -> None:
    code = "import sys; sys.argv = ['faultlines', 'card', 'softmaks']; from faultlines.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2 and "neither file.py:Name" in done.stderr


def test_references_are_extended_by_a_command_that_names_what_it_does_not_know(folder: Path) -> None:
    status, said = command("references", "--only", "softmaks")
    assert status == 2 and "only='softmaks' is not one of softmax, " in said
    status, said = command("references", "--path", "nowhere.json")
    assert status == 2 and "is no file; a copy of" in said
    status, said = command("references", "--data", "nowhere")
    assert status == 2 and "nowhere" in said
    before = REFERENCES.read_bytes()
    status, said = command("references", "--only", "softmax", "--seeds", "2")  # they are there
    assert status == 0 and not said and REFERENCES.read_bytes() == before
