"""A sweep: one chapter under every combination of its axes, and the notebook that gathers their results.

Axes are written `lr=0.001,0.003 dataset=mnist,cifar10 first_seed=0..20..5`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import digest
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.store import Result, UnreadableError, read_result, write_atomic, write_notebook

TEMPLATE = Path(__file__).with_name("gathered.md")
RANGE = re.compile(r"^(?P<first>-?\d+)\.\.(?P<last>-?\d+)(?:\.\.(?P<step>\d+))?$")
MOST = 100_000


def read_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """Read axes as written on the command line.

    An axis is `name=value,value,...`; `a..b` among the values stands for all integers from a to b, both included,
    and `a..b..step` for every step-th. A value with commas of its own, a list, stands in its brackets.

    Args:
        words: One axis a word.

    Returns:
        The values of each axis as text, in the order given.

    Raises:
        UsageError: If a word is no axis, an axis comes twice or has a value twice, or there are more than
            100,000 combinations.

    Example:
        >>> read_axes(["first_seed=0..20..10", "rates=[0.1, 0.2],[0.3]"])
        {'first_seed': ['0', '10', '20'], 'rates': ['[0.1, 0.2]', '[0.3]']}
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier() or not text.strip():
            raise UsageError(f"{word!r} is no axis of a sweep: write name=value,value or name=first..last")
        if name in axes:
            raise UsageError(f"axis {name!r} is given twice: put its values into one word, {name}=a,b")
        values = [value for part in _split(text, word) for value in _expand(part, word)]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UsageError(f"axis {word!r} has {', '.join(twice)} twice")
        axes[name] = values
    if (count := math.prod(map(len, axes.values()))) > MOST:
        raise UsageError(f"the sweep has {count} combinations; at most {MOST} can be submitted at once")
    return axes


def combinations(axes: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Return every combination of the axes' values, the last axis running fastest.

    Example:
        >>> combinations({"a": ["1", "2"], "b": ["x"]})
        [{'a': '1', 'b': 'x'}, {'a': '2', 'b': 'x'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _split(text: str, word: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if depth != 0 or "" in parts:
        raise UsageError(f"axis {word!r} has an empty value or a bracket without its other half")
    return parts


def _expand(part: str, word: str) -> list[str]:
    found = RANGE.match(part)
    if found is None:
        return [part]
    first, last, step = int(found["first"]), int(found["last"]), int(found["step"] or 1)
    if last < first or step < 1:
        raise UsageError(f"axis {word!r}: {part} is empty; write first..last or first..last..step")
    if (last - first) // step >= MOST:
        raise UsageError(f"axis {word!r}: {part} has more than {MOST} values")
    return [str(value) for value in range(first, last + 1, step)]


@dataclass(frozen=True)
class Sweep:
    """A chapter, a run, what is fixed on top of it, and the axes.

    Attributes:
        chapter: The chapter.
        run: The run group.
        axes: Values of each axis, as text.
        overrides: Parameters that are the same for every task, as text.

    Raises:
        UsageError: If a parameter is both fixed and an axis.
    """

    chapter: Chapter
    run: str
    axes: Mapping[str, list[str]]
    overrides: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that no parameter is given twice."""
        if both := sorted(self.axes.keys() & self.overrides.keys()):
            raise UsageError(
                f"{', '.join(both)} is an axis of the sweep and fixed with -p: drop one of the two"
            )

    @cached_property
    def tasks(self) -> list[RunSpec]:
        """One task a combination. Each has a result of its own, shared with every other sweep that holds it."""
        return [RunSpec(self.chapter, self.run, {**self.overrides, **one}) for one in combinations(self.axes)]

    @property
    def label(self) -> str:
        """Name of the sweep, fit for a folder."""
        fixed = {name: [value] for name, value in self.overrides.items()}
        given = ",".join(f"{name}={'+'.join(values)}" for name, values in (fixed | dict(self.axes)).items())
        plain = re.sub(r"[^\w.,=+-]", "_", given)
        return f"{self.run}+{plain}" if plain == given and len(plain) < 80 else f"{self.run}+{digest(given)}"

    @property
    def plan(self) -> dict[str, Any]:
        """What the sweep was asked for, as its files hold it."""
        return {
            "chapter": self.chapter.name,
            "run": self.run,
            "axes": dict(self.axes),
            "overrides": dict(self.overrides),
        }

    def folder(self, project: Project) -> Path:
        """Return where the plan and the gathered notebook stand."""
        return project.build / "sweeps" / self.chapter.name / self.label

    def save(self, project: Project) -> None:
        """Write the plan, from which `faultlines status` knows the sweep."""
        write_atomic(self.folder(project) / "sweep.json", json.dumps(self.plan, indent=1) + "\n")


def saved_sweeps(project: Project) -> list[Sweep]:
    """Return the sweeps whose plans stand in the build folder, of chapters that are still there."""
    chapters, found = Chapter.all(project), []
    for path in sorted((project.build / "sweeps").glob("*/*/sweep.json")):
        try:
            plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found.append(Sweep(chapters[plan["chapter"]], plan["run"], plan["axes"], plan["overrides"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def gather(project: Project, sweep: Sweep) -> Path:
    """Execute the notebook that pools a sweep's results, and return where it stands.

    See `faultlines.reporting.Gathered`.

    Args:
        project: The checkout.
        sweep: The sweep; combinations without a result, or with a foreign one, are counted as missing in the
            notebook.
    """
    import papermill

    folder = sweep.folder(project)
    source, target, plan = folder / ".gathering.ipynb", folder / "gathered.ipynb", folder / "gathered.json"
    runs = [
        {
            "values": {name: task.overrides[name] for name in sweep.axes},
            "notebook": str(task.working(project)),
            "ledger": _ledger(project, task),
        }
        for task in sweep.tasks
    ]
    write_atomic(plan, json.dumps({**sweep.plan, "runs": runs}, indent=1) + "\n")
    write_notebook(jupytext.read(TEMPLATE), source)
    try:
        papermill.execute_notebook(
            str(source),
            str(source),
            parameters={"plan": str(plan)},
            kernel_name="python3",
            progress_bar=False,
        )
        source.replace(target)
    finally:
        source.unlink(missing_ok=True)
    return target


def _ledger(project: Project, task: RunSpec) -> list[dict[str, Any]] | None:
    try:
        result = read_result(task.working(project), task.run, task.overrides)
    except UnreadableError:
        return None
    return result.ledger if isinstance(result, Result) and not result.foreign else None
