"""What was measured, as tables: what runs cost, how fast the library is, what a cluster adds, a leaderboard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultlines.book.myst import list_table, verdict_badge
from faultlines.book.page import believed
from faultlines.book.scaling import grows
from faultlines.book.scoreboard import NAMES
from faultlines.notebook.code import digest
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Provenance, duration
from faultlines.notebook.run_spec import RunSpec, Where
from faultlines.reporting.intervals import Interval, mean_interval, paired_interval
from faultlines.reporting.verdicts import Verdict, judge

COSTS = ("Run", "Cost", "Made with", "Repeat it")


def costs_page(judge: Freshness, where: Where = "any") -> str:
    """Return the table of all results, chapter after chapter, in MyST; or a sentence where there is none."""
    blocks = []
    for chapter in judge.chapters.values():
        rows = []
        for run in judge.runs.shown:
            if judge.runs.covers(run, chapter):
                state = judge.state(RunSpec(chapter, run), where)
                if (result := believed(state)) is not None:
                    rows.append(_cost(run, result.provenance, stale=state.name != "fresh"))
        if rows:
            table = list_table(COSTS, rows, style="fl-scoreboard fl-costs")
            blocks.append(f"**[{chapter.title}](/chapters/{chapter.name})**\n\n{table}")
    return "\n\n".join(blocks) + "\n" if blocks else "No chapter has a result yet.\n"


def _cost(run: str, record: Provenance, *, stale: bool) -> list[str]:
    kernel, packages = record.kernel, record.kernel.get("packages", {})
    gpu = kernel.get("peak_gpu_memory_mb") or 0
    memory = f"{kernel.get('peak_memory_mb', '?')} MiB" + (f" and {gpu} MiB on the GPU" if gpu else "")
    energy = "not told" if record.energy_j is None else f"{record.energy_j / 3600:.1f} Wh"
    again = " (went on from an execution that was ended)" if record.resumed else ""
    threads = kernel.get("threads", "?")
    cost = f"{duration(record.wall_s)}{again} on {kernel.get('device', '?')}, {threads} thread{'s' * (threads != 1)}"
    code = f"commit `{record.commit}`, chapter `{record.chapter_hash[:8]}`"
    library = digest(repr(sorted(record.modules.items())))[:8]
    return [
        run + (' <span class="stale">stale</span>' if stale else ""),
        f"{cost}; {memory}; energy {energy}",
        f"Python {kernel.get('python', '?')}, torch {packages.get('torch', '?')}, {code}, library `{library}`",
        f"`{record.command} --force`",
    ]


# speed

SPEED = ("What", "Ratio", "Target", "Reached", "How")


def speed_page(project: Project) -> str:
    """Return a table for each benchmark in MyST, or a sentence where nothing was measured."""
    path = project.root / "results" / "benchmarks.json"
    if not path.is_file():
        return "Nothing was measured yet: `python -m benchmarks --write` does it.\n"
    blocks = []
    for name, found in json.loads(path.read_text(encoding="utf-8")).items():
        if grows(found):  # it has a section of its own
            continue
        rows = [_ratio(row) for row in found["rows"]]
        day = found["measured"][:10]
        head = f"**{found['title']}** (`benchmarks.{name}`, {day}, {found['machine']})"
        blocks.append(f"{head}\n\n{list_table(SPEED, rows, style='fl-table')}")
    return "\n\n".join(blocks) + "\n"


def _ratio(row: dict[str, Any]) -> tuple[str, ...]:
    reached = {True: "yes", False: "**no**", None: ""}[row["ok"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    target = row["target"]
    shown = f"{target:g}" if isinstance(target, (int, float)) else (target or "")
    shown = shown.replace(">=", "≥").replace("<=", "≤")  # a cell that opens with > would be a quotation
    return row["name"], ratio, shown, reached, row["note"] or f"{row['ours_s']:.3g} s"


# clusters

SIZES = (100, 1_000, 10_000)
CHAPTER_S = 1800.0
CORES = 256


def cluster_page(project: Project) -> str:
    """Return the tables in MyST, or a sentence where nothing was measured."""
    path = project.root / "results" / "pipeline.json"
    if not path.is_file():
        return "Nothing was measured yet: `python -m benchmarks.pipeline --write` does it.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    return f"{_measured(found)}\n\n{_extrapolated(found)}\n" if found["slurm"] else f"{_measured(found)}\n"


def _measured(found: dict[str, Any]) -> str:
    rows = [
        ("Kernel start and `import faultlines`", f"{found['kernel_s']:.2f} s"),
        (f"All that comes on top of {found['chapter_s']:.0f} s of cells", f"{found['added_s']:.1f} s"),
        ("… of it kernel, import of torch and papermill by itself", f"{found['papermill_s']:.1f} s"),
        ("Four equal chapters on two workers, against one", f"{found['workers_ratio']:.2f} of the time"),
    ]
    if slurm := found["slurm"]:
        result, logs = slurm["result_bytes"] / 1024, slurm["log_bytes_a_job"] / 1024
        rows += [
            (f"Submitting an array of {slurm['jobs']}", f"{slurm['submit_s']:.1f} s"),
            ("One look at the queue", f"{slurm['squeue_s'] * 1000:.0f} ms"),
            ("A job that does nothing, from start to result", f"{slurm['core_s_a_job']:.1f} core seconds"),
            ("Its result and its logs", f"{result:.0f} + {logs:.0f} KiB"),
        ]
    table = list_table(("What", "Measured"), rows, style="fl-scoreboard")
    return f"Measured {found['measured']} on {found['machine']}:\n\n{table}"


def _extrapolated(found: dict[str, Any]) -> str:
    slurm, rows = found["slurm"], []
    for jobs in SIZES:
        lost, useful = jobs * slurm["core_s_a_job"], jobs * CHAPTER_S
        size = jobs * (slurm["result_bytes"] + slurm["log_bytes_a_job"]) / 2**20
        rows.append((
            f"{jobs:,}",
            duration(useful / CORES),
            f"{duration(lost / CORES)} ({lost / (lost + useful):.1%})",
            f"{size:,.0f} MiB in {2 * jobs:,} small files and more",
        ))  # fmt: skip
    head = (
        "Jobs",
        f"Chapters of {CHAPTER_S / 60:.0f} min on {CORES} cores",
        "Start-up on top",
        "On the shared disk",
    )
    return f"Extrapolated, one core a job:\n\n{list_table(head, rows, style='fl-scoreboard')}"


# the leaderboard

RANKED = 20  # seeds below which a row has no place
BOARDS = ("digits", "fashion_mnist", "cifar10")


@dataclass(frozen=True)
class Standing:
    """A mechanism's row on one data set.

    Attributes:
        name: The mechanism.
        seeds: At how many it and softmax both came to the loss, so that they are compared there.
        missed: At how many it did not come to the loss.
        accuracy: Over its own seeds; None where there are fewer than two.
        effects: By probe, how much more than softmax it moves, paired by seed; of softmax and of fewer than two seeds
            none.
        verdicts: Whether it moves less, by probe.
        own: By probe, the mean of what moves under attack.
    """

    name: str
    seeds: int
    missed: int
    accuracy: Interval | None
    effects: dict[str, Interval]
    verdicts: dict[str, Verdict]
    own: dict[str, float]

    @property
    def ranked(self) -> bool:
        """Whether there are seeds enough for a place."""
        return self.seeds >= RANKED

    @property
    def balance(self) -> int:
        """Probes under which it moves less than softmax, less those under which it moves more."""
        said = list(self.verdicts.values())
        return said.count("holds") - said.count("fails")


def standings(one: Mapping[str, Any], smallest: Mapping[str, float]) -> list[Standing]:
    """Return the rows of one data set, those with a place first and in its order, the others by name.

    Args:
        one: Its numbers by mechanism and seed, as `card_references.json` has them.
        smallest: Each probe's smallest effect of interest.
    """
    softmax = one["networks"].get("softmax", {})
    missed = one.get("missed", {})
    found = []
    for name in dict.fromkeys([*one["networks"], *missed]):
        own = one["networks"].get(name, {})
        seeds = sorted(own.keys() & softmax.keys(), key=int)
        effects = {
            probe: paired_interval(
                [own[s]["probes"][probe][0] for s in seeds], [softmax[s]["probes"][probe][0] for s in seeds]
            )
            for probe in smallest
            if len(seeds) > 1 and name != "softmax"
        }
        found.append(Standing(
            name,
            len(seeds),
            len(missed.get(name, ())),
            mean_interval([n["accuracy"] for n in own.values()], within=(0, 1)) if len(own) > 1 else None,
            effects,
            {probe: judge(effect, "below", smallest=smallest[probe]) for probe, effect in effects.items()},
            {probe: sum(n["probes"][probe][0] for n in own.values()) / len(own) for probe in smallest if own},
        ))  # fmt: skip
    return sorted(found, key=lambda row: (not row.ranked, -row.balance * row.ranked, row.name))


def leaderboard_page(project: Project) -> str:
    """Return a table of mechanisms against probes for each data set in MyST, with what it cannot say above.

    Raises:
        UsageError: If a card that was handed in has another setting than the references, has the name of one, or
            its file is not beside it.
    """
    path = project.library / "studies" / "card_references.json"
    if not path.is_file():
        return "Nothing was measured yet: `faultlines references` does it.\n"
    held = json.loads(path.read_text(encoding="utf-8"))
    smallest = {probe: said["smallest"] for probe, said in held["of_interest"].items()}
    handed = [read_card(file) for file in sorted(project.root.glob("results/leaderboard/*/card.json"))]
    for file, card in handed:
        one = next((one for one in held["sets"] if one["setting"] == card["setting"]), None)
        if one is None:
            raise UsageError(f"{file} has a setting that no reference has")
        name = file.parent.name
        if name in one["networks"] or name in one.get("missed", {}):
            raise UsageError(f"{file} is called {name}, as a reference is: give its folder another name")
        one["networks"][name] = card["networks"]
        one.setdefault("missed", {})[name] = card["missed"]
    boards = {one["setting"]["dataset"]: (one, standings(one, smallest)) for one in held["sets"]}
    reasons = "; ".join(
        f"{probe} {said['smallest']:g} ({said['reason']})" for probe, said in held["of_interest"].items()
    )
    blocks = [_cannot_say(boards), f"The smallest effects of interest are: {reasons}."]
    for name, (_, rows) in boards.items():
        blocks.append(f"## On {NAMES.get(name, name)}")
        if ranked := [row for row in rows if row.ranked]:
            blocks.append(_standings_table(ranked, list(smallest)))
        if others := [row for row in rows if not row.ranked]:
            blocks.append(f"**Provisional**, with fewer than {RANKED} seeds and so without a place:")
            blocks.append(_standings_table(others, list(smallest)))
    return "\n\n".join(blocks) + "\n"


def read_card(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a card that was handed in, its numbers by seed as the references have them.

    Raises:
        UsageError: If it is no card of a mechanism, or the file that it was made from does not lie beside it.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        networks = {
            str(seed): {
                "accuracy": card["accuracy"][n],
                "probes": {p: [of["attack"][n], of["noise"][n]] for p, of in card["probes"].items()},
            }
            for n, seed in enumerate(card["seeds"])
        }
        mechanism, source = card["kind"] == "mechanism", card["source"].partition(":")[0]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(f"{path} is no card: {type(error).__name__}: {error}") from None
    beside = {hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in path.parent.glob("*.py")}
    if not mechanism or source not in beside:
        raise UsageError(
            f"{path} is not of a mechanism whose file lies beside it as it was when it was measured"
        )
    return path, card | {"networks": networks}


def _cannot_say(boards: Mapping[str, tuple[Mapping[str, Any], list[Standing]]]) -> str:
    lines = []
    for name, (one, rows) in boards.items():
        s, effects = one["setting"], sum(len(row.effects) for row in rows)
        low, high = min(row.seeds for row in rows), max(row.seeds for row in rows)
        blocks = f"{s['depth']} block{'s' * (s['depth'] != 1)} of {s['heads']} heads and {s['dim']} numbers a token"
        lines.append(
            f"- **{NAMES.get(name, name)}**: {s['train_size']:,} training images a seed, a transformer of {blocks} on "
            f"{s['grid']} × {s['grid']} patches, each trained until its loss is at most {s['loss']:g}; attacks of "
            f"{s['steps']} steps in a ball of radius {s['radius']:.3g} on {s['n_images']} test images that the network "
            f"has right; {low if low == high else f'{low} to {high}'} seeds. Of the {effects} intervals at 95 %, about "
            f"{effects / 20:.0f} miss by chance alone, and so may a verdict."
        )
    left = [NAMES[name] for name in BOARDS if name not in boards]
    if left:
        lines.append(f"- No networks are stored yet on {' and '.join(left)}.")
    return "\n".join(lines)


def _standings_table(rows: Iterable[Standing], probes: list[str]) -> str:
    header = ("Mechanism", "Balance", "Seeds", "Accuracy", *(probe.capitalize() for probe in probes))
    return list_table(header, [_standing(row, probes) for row in rows], style="fl-table fl-leaderboard")


def _standing(row: Standing, probes: list[str]) -> list[str]:
    softmax = row.name == "softmax"
    said = list(row.verdicts.values())
    balance = f"{row.balance:+d} ({said.count('holds')} less, {said.count('fails')} more)"
    cells = [
        row.name,
        "0 (the reference)" if softmax else balance if row.ranked else "no place",
        f"{row.seeds}" + (f" ({row.missed} missed the loss)" if row.missed else ""),
        _in_two(f"{row.accuracy:.1%}") if row.accuracy else "–",
    ]
    for probe in probes:
        if probe in row.effects:
            cells.append(f"{_in_two(f'{row.effects[probe]:+.2f}')} {verdict_badge(row.verdicts[probe])}")
        else:
            cells.append(f"0 (it moves {row.own[probe]:.2f})" if softmax and row.own else "not compared")
    return cells


def _in_two(interval: str) -> str:
    # a narrow cell breaks between the estimate and its interval only
    return interval.replace(", ", ",\N{NO-BREAK SPACE}")
