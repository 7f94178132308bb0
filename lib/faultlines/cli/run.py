"""`faultlines run`: execute what is missing or stale, here or on a cluster, one by one or a sweep.

A rehearsal trains on stand-ins for the data sets.
"""

from __future__ import annotations

import colorsys
import os
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError

from faultlines.cli.app import RunName, choose, command, err, out, say
from faultlines.notebook.batches import FIRST, check_batch, write_batch
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.parameters import CHECKS, Check, shown
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.runner.job_status import JobResult, clear_leftovers
from faultlines.runner.sweep import Sweep, gather, read_axes

if TYPE_CHECKING:
    from faultlines.data.catalogue import KnownSet

VARIABLE = "FAULTLINES_DATA"
SLURM = "With --executor slurm"
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Override a parameter."),
]


class Executor(StrEnum):
    """Where notebooks are executed."""

    local = "local"
    slurm = "slurm"


@command
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHAPTER... [AXIS...]",
            help="Chapters; all where none is named. With --sweep also axes: lr=0.001,0.003 first_seed=0..20..5",
        ),
    ] = None,
    run: RunName = "default",
    parameter: Parameters = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Notebooks at a time.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Execute also what is fresh.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Execute also what is fresh but came with the clone.")
    ] = False,
    seeds_from: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="SEED",
            help="Run other seeds, from this one on, and add them to the run's result as a batch.",
        ),
    ] = None,
    look: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --seeds-from: the look that the batch belongs to; the one after the last."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run every combination of the axes, then gather the ledgers.")
    ] = False,
    executor: Annotated[Executor, typer.Option(help="This machine, or a Slurm cluster.")] = Executor.local,
    partition: Annotated[
        str | None, typer.Option(help="Partition; the cluster's own default.", rich_help_panel=SLURM)
    ] = None,
    account: Annotated[str | None, typer.Option(help="Account to charge.", rich_help_panel=SLURM)] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.", rich_help_panel=SLURM)] = None,
    constraint: Annotated[
        str | None, typer.Option(help="Features of the node: 'a100|h100'.", rich_help_panel=SLURM)
    ] = None,
    time: Annotated[
        int, typer.Option(min=1, help="Minutes a job; then it is requeued.", rich_help_panel=SLURM)
    ] = 240,
    requeues: Annotated[
        int, typer.Option(min=0, help="How often a job is requeued.", rich_help_panel=SLURM)
    ] = 3,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs a job.", rich_help_panel=SLURM)] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="Processors a job.", rich_help_panel=SLURM)] = 2,
    mem: Annotated[str | None, typer.Option(help="Memory a job: 16G.", rich_help_panel=SLURM)] = None,
    at_once: Annotated[
        int, typer.Option(min=1, help="Most jobs that run at a time.", rich_help_panel=SLURM)
    ] = 64,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="Any other option of sbatch.", rich_help_panel=SLURM),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit and return.", rich_help_panel=SLURM)
    ] = False,
) -> int:
    """Execute what is missing or stale."""
    project = Project.find()
    runs = Runs.load(project)
    fixed = read_overrides(parameter or [])
    axes = read_axes([word for word in words or [] if "=" in word])
    chapters = [word for word in words or [] if "=" not in word]
    if seeds_from is not None:
        if sweep or not chapters:
            raise UsageError("--seeds-from needs a chapter, and no --sweep")
        fixed = with_first_seed(fixed, seeds_from)
    elif look is not None:
        raise UsageError("--look is said of a batch: say --seeds-from too")
    sweeps: list[Sweep] = []
    if sweep:
        if not axes or not chapters:
            raise UsageError("--sweep needs a chapter and an axis: faultlines run CHAPTER --sweep name=a,b,c")
        sweeps = [
            Sweep(task.chapter, run, axes, fixed) for task in choose(project, runs, chapters, run, fixed)
        ]
        tasks = [task for one in sweeps for task in one.tasks]
    elif axes:
        raise UsageError(f"{next(iter(axes))}=... is an axis: say --sweep, or give one value with -p")
    else:
        tasks = choose(project, runs, chapters, run, fixed)
    from faultlines.runner.slurm import SlurmResources, read_sbatch  # here: a help text needs no kernel

    try:
        resources = SlurmResources(
            partition=partition, account=account, qos=qos, constraint=constraint, mem=mem, minutes=time,
            requeues=requeues, gpus=gpus, cpus=cpus, at_once=at_once, sbatch=read_sbatch(sbatch or []),
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]} {shown(first['input'])}: {first['msg']}") from None
    judge = Freshness(project, runs)
    if seeds_from is not None:
        for task in tasks:
            check_batch(judge, task, look)
    work = []
    for task in tasks:
        resolved = task.parameters(runs)
        if force or judge.state(task, "here" if here else "any").name != "fresh":
            work.append((task, resolved))
    if work and run == "rehearsal":
        use_stand_ins(project)
    checked = remember(CHECKS)
    for task, _ in work:
        task.parameters(runs, checked)
    clear_leftovers(project)
    for one in sweeps:
        one.save(project)
    out.print(f"{len(work)} to execute, {len(tasks) - len(work)} fresh")
    failed = 0
    if work and executor is Executor.slurm:
        from faultlines.runner.slurm import SlurmPool

        failed = tell(project, SlurmPool(project, resources, out).run(work, detach=detach))
        if detach:
            return 0
    elif work:
        from faultlines.runner.local_pool import LocalPool

        failed = tell(project, LocalPool(project, jobs, out).run(work))
    if seeds_from is not None and not failed:
        from faultlines.book.publish import write_index, write_scoreboard

        judge = Freshness(project, Runs.load(project))
        for task in tasks:
            say(
                out,
                f"{task.chapter.name} · batch: {write_batch(judge, task, look).relative_to(project.root)}",
            )
        write_index(project)
        write_scoreboard(project)
    for one in sweeps:
        if any(task.working(project).exists() for task in one.tasks):
            gathered = gather(project, one).relative_to(project.root)
            say(out, f"{one.chapter.name} · gathered: {gathered}")
    return 1 if failed else 0


def read_overrides(given: list[str]) -> dict[str, str]:
    """Split `name=value` words.

    Raises:
        UsageError: If a word has no `=`, a name comes twice, or a value is no text.
    """
    overrides: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"-p {shown(word)} is not of the form name=value")
        if name in overrides:
            raise UsageError(f"parameter {name!r} is given twice")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UsageError(f"parameter {name}={shown(value)} is no text")
        overrides[name] = value
    return overrides


def with_first_seed(fixed: dict[str, str], seed: int) -> dict[str, str]:
    """Return the overrides of a batch of seeds.

    Raises:
        UsageError: If they name another first seed.
    """
    if fixed.get(FIRST, str(seed)) != str(seed):
        raise UsageError(f"--seeds-from {seed} and -p {FIRST}={fixed[FIRST]}: give one of the two")
    return {**fixed, FIRST: str(seed)}


def remember(checks: dict[str, Check]) -> dict[str, Check]:
    """Return the checks, each asked once a value: a sweep of a thousand tasks loads its data set once.

    Example:
        >>> check = remember({"data set": print})["data set"]
        >>> check("digits"), check("digits")
        digits
        (None, None)
    """
    return {name: lru_cache(maxsize=None)(check) for name, check in checks.items()}


def tell(project: Project, results: list[JobResult]) -> int:
    """Say where results stand and what failed; return how many failed."""
    for result in results:
        if result.ok:
            where = result.task.working(project).relative_to(project.root)
            say(out, f"{result.task.chapter.name} · {result.task.label}: {where}")
    failed = [result for result in results if not result.ok]
    for result in failed:
        detail = result.detail
        cell = f" in cell {number}" if (number := detail.get("cell")) else ""
        first = detail.get("message", "").strip().splitlines() or [""]
        what = f"{detail.get('error', '')}: {first[0]}"
        say(err, f"{result.task.chapter.name} · {result.task.label} failed{cell}: {what}")
        if "notebook" in detail:
            say(err, f"  its notebook, with the traceback: {detail['notebook']}")
    return len(failed)


# what a rehearsal trains on


def use_stand_ins(project: Project) -> Path:
    """Let this process, and those that it starts, find stand-ins in place of data sets.

    A rehearsal asks whether a run of the paper's sizes goes through, for which images of the right shape will do:
    enlarged digits. It so needs no download, and is the same computation wherever it runs.

    Args:
        project: The checkout; the stand-ins lie under its `_build`.

    Returns:
        The folder that `FAULTLINES_DATA` names from now on.
    """
    from faultlines.data.catalogue import KNOWN

    folder = project.build / "stand-ins"
    folder.mkdir(parents=True, exist_ok=True)
    for known in KNOWN.values():
        if known.form != "embedded" and not (folder / f"{known.name}.npz").is_file():
            write_stand_in(known, folder)
    os.environ[VARIABLE] = str(folder)
    return folder


def write_stand_in(known: KnownSet, folder: Path) -> Path:
    """Write a stand-in for a known data set as an `.npz` that `faultlines.data.load` reads.

    A class is a digit; where there are more than ten, a digit in one of several colours.

    Args:
        known: The data set.
        folder: Where to write it.

    Returns:
        The file.
    """
    from faultlines.data.loading import read_digits

    channels, side, _ = known.image_shape
    x_train, y_train, x_test, y_test = read_digits()
    arrays: dict[str, Any] = {}
    for part, images, digits in (("train", x_train, y_train), ("test", x_test, y_test)):
        hues = max(1, len(known.classes) // 10)
        rank = np.array([np.count_nonzero(digits[:i] == digit) for i, digit in enumerate(digits)])
        hue = rank % hues  # every colour of a digit equally often
        large = enlarged(images, side)[..., None]
        if channels == 3:
            inks = np.array([colorsys.hsv_to_rgb(h / hues, 0.6 * (hues > 1), 1.0) for h in range(hues)])
            large = 0.1 + 0.8 * large * inks[hue][:, None, None]
        arrays[f"x_{part}"] = (255 * large).astype(np.uint8)
        arrays[f"y_{part}"] = digits * hues + hue
    path = folder / f"{known.name}.npz"
    beside = folder / f".{known.name}.{os.getpid()}.npz"  # another process may write the same
    np.savez_compressed(beside, **arrays)
    beside.replace(path)
    return path


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """Return square images `[n, h, h]` at another side, by linear interpolation.

    Example:
        >>> enlarged(np.array([[[0.0, 1.0], [0.0, 1.0]]]), 3)[0, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    at = np.linspace(0, images.shape[1] - 1, side)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, images.shape[1] - 1), at - low
    rows = images[:, low] * (1 - part)[:, None] + images[:, high] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, high] * part
