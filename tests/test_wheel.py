"""The built wheel works where there is no checkout, and what needs one says so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

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
