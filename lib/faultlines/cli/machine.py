"""`faultlines doctor`, `data` and `forecast`: what this machine has, and what a run will take."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.table import Table

from faultlines.cli.app import RunName, choose, command, out, say, show
from faultlines.cli.run import Parameters, read_overrides
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import processor
from faultlines.notebook.runs import Runs


@command
def doctor() -> int:
    """Tell what this machine has, and what is not in order."""
    rows = examine(Project.find())
    table = Table("what", "found", "", box=None)
    for what, finding, well in rows:
        table.add_row(what, finding, "[green]ok[/green]" if well else "[red]not in order[/red]")
    show(table)
    return 0 if all(well for _, _, well in rows) else 1


@command
def data(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One data set; all where none is named.")
    ] = None,
) -> int:
    """Tell which data sets are here, and how to get those that are not."""
    from faultlines.data.catalogue import data_root

    told = told_data_sets()
    if name is not None and name not in told:
        raise UsageError(f"unknown data set {name!r}: it is one of {', '.join(told)}")
    say(out, f"data root (FAULTLINES_DATA): {data_root()}")
    for line, how in [told[name]] if name else told.values():
        say(out, line)
        if how:
            say(out, f"  {how}")
    return 1 if name is not None and told[name][1] else 0


@command
def forecast(
    chapter: Annotated[str, typer.Argument(metavar="CHAPTER", help="One chapter.")],
    run: RunName = "paper",
    device: Annotated[
        str | None, typer.Option(help="A device of growth.yml: cpu, h100; where the run is for, by default.")
    ] = None,
    parameter: Parameters = None,
) -> None:
    """Tell what a run will take, before it starts, from runs that were measured."""
    from faultlines.runner import forecast as forecasts

    project = Project.find()
    runs = Runs.load(project)
    [task] = choose(project, runs, [chapter], run, read_overrides(parameter or []))
    found = forecasts.Forecast.of(Freshness(project, runs), task, device)
    say(out, found.summary)
    table = Table("part", "seconds", "grows with", box=None)
    for name, seconds in found.seconds.items():
        grows = ", ".join(f"{of} ^ {power:g}" for of, power in found.powers[name].items())
        table.add_row(name, f"{seconds:,.0f}", grows or "nothing")
    show(table)
    for line in found.basis:
        say(out, line)


def told_data_sets() -> dict[str, tuple[str, str]]:
    """Return, for each data set, what is said of it, and how to get it where it is not here."""
    from faultlines.data import available
    from faultlines.data.catalogue import folder_sets

    told = {}
    for entry in available():
        shape = "x".join(map(str, entry.image_shape))
        found = f"{entry.source}, {entry.path or 'comes with scikit-learn'}" if entry.source else "not here"
        size = f"{entry.n_train} + {entry.n_test} images {shape}"
        told[entry.name] = f"{entry.name}: {size}: {found}", "" if entry.source else entry.how
    for folder in folder_sets():
        found = f"folder, {folder.path}" if folder.path else "not here"
        told[folder.name] = f"{folder.name}: pictures for {folder.loader}: {found}", folder.how
    return told


def examine(project: Project) -> list[tuple[str, str, bool]]:
    """Return rows of (what, finding, whether it is in order)."""
    rows = [
        ("Python", f"{platform.python_version()} at {sys.executable}", sys.version_info >= (3, 11)),
        ("checkout", str(project.root), True),
        ("library", str(project.library), project.library.is_relative_to(project.root)),
    ]
    rows += [_torch(), _torchvision(), _device(), _threads(), _jupyter_book()]
    free = shutil.disk_usage(project.root).free / 2**30
    rows.append(("disk", f"{free:.0f} GiB free", free > 2))
    return rows + _data_sets()


def _torch() -> tuple[str, str, bool]:
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return "torch", torch.__version__, release >= (2, 11)


def _torchvision() -> tuple[str, str, bool]:
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return "torchvision", "not installed; needed only to download data sets", True
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        return "torchvision", f"{version} does not import beside this torch: {error}", False
    return "torchvision", version, True


def _device() -> tuple[str, str, bool]:
    import torch

    if not torch.cuda.is_available():
        return "device", f"CPU, {processor()}", True
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return "device", ", ".join(names), True


def _threads() -> tuple[str, str, bool]:
    import torch

    return "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors", True


def _jupyter_book() -> tuple[str, str, bool]:
    try:
        version = metadata.version("jupyter-book")
    except metadata.PackageNotFoundError:
        return "jupyter-book", "not installed; needed for `faultlines book`", False
    return "jupyter-book", version, version.startswith("1.")


def _data_sets() -> list[tuple[str, str, bool]]:
    from faultlines.data import available
    from faultlines.data.catalogue import folder_sets

    found = {
        entry.name: str(entry.path or "embedded") if entry.source else "not here" for entry in available()
    }
    found |= {entry.name: str(entry.path or "not here") for entry in folder_sets()}
    return [(f"data set {name}", where, True) for name, where in found.items()]
