"""What `pytest --nbval` compares on another machine than the one that made a notebook.

With the same processor and packages every output has to be the same. On another processor a sum is taken in another
order, and training carries the last bit into every number. So numbers and verdicts are then no part of the comparison:
every cell still has to run, and to show the same tables, rows and sentences.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from faultlines.notebook.outputs import RECORD, take
from faultlines.notebook.provenance import describe_process

MOVING = {
    r"<span class=\"verdict[^>]*>[^<]*</span>": "VERDICT",
    r"([✔✘≈?] )?\b(holds|fails|negligible|inconclusive)\b": "VERDICT",
    r"[-+−]?(\d[\d,]*(\.\d+)?(e[-+]?\d+)?|inf|nan)\b": "NUMBER",
}
"""Patterns of what another processor may change, in the order in which they are replaced."""
DECIDING = ("torch", "numpy", "scipy", "scikit-learn")

others = pytest.StashKey[dict[str, str]]()


def made_elsewhere(kernel: dict[str, Any], here: dict[str, Any]) -> str:
    """Return what a notebook was made with that is another thing here, in words; empty where nothing is."""
    pairs = {"processor": (kernel["device"], here["device"])}
    pairs |= {name: (kernel["packages"].get(name), here["packages"].get(name)) for name in DECIDING}
    return "; ".join(f"{name} {there}, here {now}" for name, (there, now) in pairs.items() if there != now)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave numbers out of the comparison of a notebook that was made elsewhere."""
    notebook = getattr(item.parent, "nb", None)
    told = item.config.stash.setdefault(others, {})
    if notebook is None or str(item.path) in told:
        return
    records = take(notebook, RECORD)
    told[str(item.path)] = why = made_elsewhere(records[-1]["kernel"], describe_process()) if records else ""
    if why:
        item.parent.sanitize_patterns.update(MOVING)  # type: ignore[union-attr]
        # as a warning it reaches the summary from every worker
        said = f"{item.path.name} was made elsewhere ({why}): its numbers are not compared"
        warnings.warn_explicit(pytest.PytestWarning(said), None, str(item.path), 0)
