"""The files that other people's machines read parse, and name what exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_binder_installs_the_pinned_list_and_the_library() -> None:
    [line] = (ROOT / ".binder" / "requirements.txt").read_text().split("\n")[:-1]
    assert (ROOT / ".binder" / line.removeprefix("-r ")).resolve() == ROOT / "requirements.txt"
    post = ROOT / ".binder" / "postBuild"
    assert os.access(post, os.X_OK)
    assert subprocess.run(["bash", "-n", post]).returncode == 0


def test_the_container_makes_the_environment_of_the_makefile() -> None:
    asked = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    target = asked["postCreateCommand"].split()[1]
    found = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_the_workflow_and_the_hooks_name_what_exists() -> None:
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = [step["run"] for step in flow["jobs"]["all"]["steps"] if "run" in step]
    assert runs and all(os.access(ROOT / run, os.X_OK) for run in runs)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pinned = (ROOT / "requirements.txt").read_text()
    for hook in [hook for repo in hooks if repo["repo"] == "local" for hook in repo["hooks"]]:
        assert Path(hook["entry"].split()[0]).name in pinned
    template = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "verdict.yml").read_text())
    assert {"name", "description", "body"} <= template.keys()


def test_the_command_line_without_its_packages_says_how_to_install_them() -> None:
    code = "import sys; sys.modules['typer'] = None; from faultlines.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "faultlines: the command line needs typer: pip install 'faultlines[notebooks]'\n"
