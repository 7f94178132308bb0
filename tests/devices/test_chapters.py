"""Chapters run on a device that is not the CPU: what a kernel computes there is what it computes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.devices.wooden import NAME

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Project(ROOT, ROOT / "lib" / "faultlines")


@pytest.fixture(scope="module")
def with_the_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which torch, when imported, finds the device as it would find a vendor's."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "wooden-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wooden\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[torch.backends]\nwooden = tests.devices.wooden:register\n")
    paths = [str(folder), str(ROOT), str(ROOT / "lib"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.slow
@pytest.mark.parametrize("chapter", Chapter.all(PROJECT))
def test_a_chapter_at_smoke_size(chapter: str, with_the_device: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "faultlines",
        "run",
        chapter,
        "--run",
        "smoke",
        "--force",
        "-p",
        f"device={NAME}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=with_the_device, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_no_other_process_knows_the_device() -> None:
    code = "import torch; torch.empty(0, device='wooden')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
