"""The table of `on_wooden.py`, run in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "data or models or attacks or table or caught or autocast",
        "same_on and (estimators or training)",
        "same_on and studies",
        "tf32",
    ],
)
def test_on_another_device(part: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", str(HERE / "on_wooden.py"), "-k", part]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
