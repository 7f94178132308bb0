"""`faultlines card`: someone's mechanism or classifier under the probes; `faultlines cards`: several side by side."""

from __future__ import annotations

import json
import math
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from faultlines.cli.app import command, err, out, say, show
from faultlines.notebook.errors import UsageError

CARD = Path(__file__).with_name("card.md")  # in a checkout a link to the chapter, in a wheel its text


@command
def card(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="file.py:Name or package.module:Name of a mechanism or a maker of a classifier, or a known name.",
        ),
    ],
    data: Annotated[
        str, typer.Option(help="A data set's name, an .npz, or a folder with images by class.")
    ] = "digits",
    weights: Annotated[str, typer.Option(help="A classifier's state dict or safetensors.")] = "",
    seeds: Annotated[int, typer.Option(min=2, max=100, help="Seeds, or batches of a classifier.")] = 10,
    folder: Annotated[Path, typer.Option(help="Where the card is written.")] = Path("card"),
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Any other parameter of the card."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page at the end.")] = False,
) -> int:
    """Measure a mechanism or a classifier under the probes, beside reference mechanisms."""
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from faultlines.cli.run import read_overrides
    from faultlines.notebook.parameters import CHECKS, read_parameters, read_rules, resolve

    notebook = jupytext.read(CARD, fmt="md:myst")
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    declared = read_parameters(cell.source)
    given: dict[str, Any] = {p.name: p.default for p in declared}
    given |= {"target": target, "dataset": data, "weights": weights, "seeds": seeds, "folder": str(folder)}
    known = {p.name: p for p in declared}
    for name, text in read_overrides(parameter or []).items():
        if name not in known:
            raise UsageError(f"a card has no parameter {name!r}: it has {', '.join(known)}")
        given[name] = known[name].parse(text)
    resolve(declared, given, "a card", CHECKS, read_rules(cell.source))
    forecast(given)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "card.ipynb"
    told = threading.Thread(target=tell, args=(folder / "measured", ended := threading.Event()), daemon=True)
    told.start()
    try:
        papermill.execute_notebook(notebook, str(page), given, progress_bar=out.is_terminal)
    except PapermillExecutionError as error:
        say(err, f"faultlines: {error.ename}: {' '.join(str(error.evalue).split())}")
        say(err, f"  its notebook, with the traceback: {page}")
        return 1
    finally:
        ended.set()
    page = as_html(page)
    say(out, f"the card: {page}, {folder / 'card.json'}")
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return 0


def tell(measured: Path, ended: threading.Event) -> None:
    """Say how many networks or batches of a card are measured, whenever there is one more, until it has ended."""
    before = there = len(list(measured.glob("*.json")))
    if there:
        say(out, f"{there} measured before: those with the same file and setting are taken")
    while not ended.wait(1.0):
        there = len(list(measured.glob("*.json")))
        if there > before:
            say(out, f"{there} measured")
            before = there


def forecast(given: dict[str, Any]) -> None:
    """Refuse a bad target in one line, and say what the card will cost, before a kernel starts.

    Raises:
        UsageError: If the target or the data set is bad.
    """
    from faultlines.studies.card import data_for, rehearse, seconds_of_a_batch, setting_for, stored_references
    from faultlines.studies.card_target import check_target, find_target

    fields = ("radius", "loss", "steps", "epochs", "train_size", "test_size")
    try:
        found = find_target(given["target"])
        data = data_for(given["dataset"])
        setting = setting_for(given["dataset"], **{name: given[name] for name in fields})
        tokens = setting.grid**2 + 1
        said = check_target(
            found, data, given["weights"], setting.heads, setting.dim // setting.heads, tokens
        )
        if found.kind == "mechanism":
            longest = f"at most {rehearse(found, data, setting):.0f} s"
        else:
            most = seconds_of_a_batch(found, data, setting, given["weights"])
            longest = "" if most is None else f", at most {most:.0f} s of a processor each"
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None
    for warning in said:
        say(err, f"warning: {warning}")
    if found.kind == "classifier":
        say(out, f"a classifier, on {given['seeds']} batches of test images{longest}; nothing is trained")
        return
    took = [n["seconds"] for by in stored_references(setting).values() for n in by.values() if "seconds" in n]
    each = f"about {sum(took) / len(took):.0f} s" if took else longest
    beside = (
        ""
        if took or given["target"] == "softmax"
        else ", and as many of softmax, for this setting has no references"
    )
    say(out, f"a mechanism, to be trained with {given['seeds']} seeds, {each} of a processor each{beside}")


@command
def references(
    data: Annotated[str, typer.Option(help="A data set's name.")] = "digits",
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Seeds that each mechanism shall have.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="Only this mechanism; may be given again.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Stop after so many; 0 is never.")] = 0,
    path: Annotated[
        Path | None, typer.Option(help="The file that is extended; the library's own by default.")
    ] = None,
) -> None:
    """Extend what cards and the leaderboard compare with: train the networks that are not stored yet."""
    from faultlines.studies.card import REFERENCES, data_for, extend_references, setting_for
    from faultlines.studies.card_target import known_mechanisms

    known = known_mechanisms()
    for name in only or []:
        if name not in known:
            raise UsageError(f"only={name!r} is not one of {', '.join(known)}")
    if path is not None and not path.is_file():
        raise UsageError(f"path={str(path)!r} is no file; a copy of {REFERENCES} is one to begin with")
    try:
        images = data_for(data)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from None
    until = time.monotonic() + 60 * minutes if minutes else math.inf
    trained = extend_references(
        images, setting_for(data), only or known, seeds, path or REFERENCES, until=until
    )
    for name, seed, numbers in trained:
        said = "did not come to the loss" if numbers is None else f"accuracy {numbers['accuracy']:.1%}"
        say(out, f"{name}, seed {seed}: {said}")


def as_html(page: Path) -> Path:
    """Return the page of an executed notebook, or the notebook where nbconvert is not installed."""
    try:
        from nbconvert import HTMLExporter
    except ImportError:
        return page
    body, _ = HTMLExporter(exclude_input=True).from_filename(str(page))
    html = page.with_suffix(".html")
    html.write_text(body, encoding="utf-8")
    return html


@command
def cards(
    paths: Annotated[list[Path], typer.Argument(metavar="CARD...", help="card.json of several cards.")],
) -> None:
    """Compare cards: how far each probe moves each target, and how much more than softmax."""
    read = {}
    for path in paths:
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            read[str(path)] = (one["target"], one["setting"], one["probes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is no card: {type(error).__name__}: {error}") from None
    settings = [setting for _, setting, _ in read.values()]
    if any(setting != settings[0] for setting in settings):
        say(err, "warning: these cards have different settings; their numbers are not of the same thing")
    names = list(dict.fromkeys(name for _, _, probes in read.values() for name in probes))
    table = Table("probe", *(target for target, _, _ in read.values()), box=None)
    for name in names:
        table.add_row(name, *(cell_of(probes.get(name)) for _, _, probes in read.values()))
    show(table)


def cell_of(probe: dict[str, Any] | None) -> str:
    """Return a probe's mean, and by how much it is more than softmax's."""
    if probe is None:
        return "left out"
    mean = sum(probe["attack"]) / len(probe["attack"])
    more = probe["more_than_softmax"]
    if more is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({more['estimate']:+.2f}, {more['low']:+.2f} to {more['high']:+.2f})"
