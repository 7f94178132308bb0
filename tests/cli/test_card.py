"""`faultlines card` from an empty folder: a page and a card.json that its schema holds; bad targets; cards compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import jupytext
import nbformat
import pytest
from PIL import Image
from typer.testing import CliRunner

import faultlines
from faultlines.cli.app import app
from faultlines.cli.card import CARD, cell_of
from faultlines.notebook.parameters import read_parameters
from faultlines.studies.card import REFERENCES, Setting, data_for

SMALL = ["-p", "train_size=64", "-p", "test_size=80", "-p", "epochs=40", "-p", "loss=1.9", "-p", "steps=2"]
SCHEMA = json.loads((Path(faultlines.__file__).parent / "studies" / "card_schema.json").read_text())
MINE = """
import torch
from torch import nn

def mine(q, k, v):
    maps = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return maps @ v, maps

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
        (["mine.py:mine", "--weights", "w.pt"], "weights='w.pt' are for a classifier"),
        (["mine.py:net", "--weights", "w.pt"], "w.pt"),
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
