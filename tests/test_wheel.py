"""The built wheel works where there is no checkout, and what needs one says so in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools writes beside what it builds
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run([*pip, *build], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, cwd=folder)
    return site


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment.pop("FAULTLINES_ROOT", None)
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_library_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = (
        "import faultlines, importlib\n"
        "print(faultlines.__file__)\n"
        "for room in ('data', 'models', 'attacks', 'estimators', 'training', 'studies', 'reporting', 'notebook'):\n"
        "    module = importlib.import_module('faultlines.' + room)\n"
        "    [getattr(module, name) for name in module.__all__]\n"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


def test_what_needs_a_checkout_says_so_in_one_line(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-m", "faultlines", "status")
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert "no checkout of the book" in line


def test_a_card_is_made_of_the_chapters_text(installed: Path, tmp_path: Path) -> None:
    shipped = installed / "faultlines" / "cli" / "card.md"
    assert not shipped.is_symlink()
    assert shipped.read_bytes() == (ROOT / "chapters" / "card.md").read_bytes()
    done = run(installed, tmp_path, "-m", "faultlines", "card", "softmaks")
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.strip().splitlines()
    assert "target='softmaks' is neither file.py:Name" in line


def test_a_lone_notebook_runs_on_the_wheel(installed: Path, tmp_path: Path) -> None:
    chapter = Chapter.all(Project(ROOT, ROOT / "lib" / "faultlines"))["crossover"]
    notebook = chapter.notebook()
    end = next(n for n, cell in enumerate(notebook.cells) if cell.source == "notebook.check_parameters()")
    notebook.cells = notebook.cells[: end + 2]  # as far as the imports of the library
    nbformat.write(notebook, tmp_path / "crossover.ipynb")
    words = ["--no-progress-bar", "crossover.ipynb", "out.ipynb", "-p", "seeds", "3"]
    done = run(installed, tmp_path, "-m", "papermill", *words)
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")


@pytest.mark.parametrize("method", ["guided_backprop", "tracin"])
def test_a_missing_extra_is_named_with_its_cure(installed: Path, tmp_path: Path, method: str) -> None:
    asked = {
        "guided_backprop": "from faultlines.estimators import attribute\n"
        "attribute(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval(), "
        "torch.rand(1, 1, 2, 2), 1, 'guided_backprop')",
        "tracin": "from faultlines.estimators.influence import tracin_scores\n"
        "tracin_scores(torch.nn.Linear(3, 1), torch.rand(4, 3), torch.rand(4), torch.rand(2, 3))",
    }[method]
    hide = "import sys, torch\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += (
        "        if name.partition('.')[0] == 'captum': raise ModuleNotFoundError('hidden', name='captum')\n"
    )
    done = run(installed, tmp_path, "-c", hide + "sys.meta_path.insert(0, Hide())\n" + asked)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("is computed by captum, which is not installed: pip install 'faultlines[notebooks]'")


def test_the_base_package_is_all_that_the_readme_needs(installed: Path, tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {Requirement(line).name.replace("-", "_") for line in project["dependencies"]}
    extras = {Requirement(line).name for line in project["optional-dependencies"]["notebooks"]} - base
    hidden = sorted({name.replace("-", "_") for name in extras} | {"yaml", "IPython", "torchvision"})
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += f"        if name.partition('.')[0] in {hidden}: raise ModuleNotFoundError(name)\n"
    done = run(installed, tmp_path, "-c", hide + "sys.meta_path.insert(0, Hide())\n" + code)
    assert done.returncode == 0, done.stderr
