"""What cells showed, as digests: taken in the kernel while they run, and again from a notebook's outputs.

A cell's digest covers what it printed and every representation that it displayed, in order. Warnings on standard error
are left out, and so is prose that was said (it is held against its text, see `faultlines.notebook.record`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

from faultlines.notebook.code import digest

RECORD = "application/vnd.faultlines.record+json"
LEDGER = "application/vnd.faultlines.ledger+json"
RESTAMP = "application/vnd.faultlines.restamp+json"


@dataclass
class Shown:
    """What one cell showed.

    Attributes:
        printed: Everything on standard output.
        displayed: Every display, by mime type.
        failed: Whether it raised.
    """

    printed: str = ""
    displayed: list[Mapping[str, Any]] = field(default_factory=list)
    failed: bool = False

    def digest(self) -> str:
        """Return the digest, empty where nothing was shown."""
        if not (self.printed or self.displayed or self.failed):
            return ""
        return digest(json.dumps([self.printed, [_plain(data) for data in self.displayed], self.failed]))


def _plain(data: Mapping[str, Any]) -> list[list[Any]]:
    # a file has the same text with or without a last line break, and JSON in any order
    return [
        [mime, value.rstrip("\n") if isinstance(value, str) else json.dumps(value, sort_keys=True)]
        for mime, value in sorted(data.items())
    ]


def shown_in(outputs: Iterable[Mapping[str, Any]]) -> Shown:
    """Return what the outputs of a notebook's cell show."""
    shown = Shown()
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            shown.printed += output["text"] if output["name"] == "stdout" else ""
        elif kind == "error":
            shown.failed = True
        elif not {RECORD, RESTAMP} & set(output["data"]):
            shown.displayed.append(output["data"])
    return shown


def take(notebook: NotebookNode, mime: str) -> list[Any]:
    """Return every output of a mime type in a notebook, in order."""
    return [
        output["data"][mime]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    ]


class Watch:
    """Listens to what a kernel sends to its front ends.

    Attributes:
        shown: What each cell showed, by its number.
        broken: What kept it from following, in words; empty as a rule.
    """

    def __init__(self) -> None:
        self.shown: dict[int, Shown] = {}
        self.broken = ""
        self._cells: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}

    def start(self, session: Any) -> None:
        """Listen to a kernel's session, in place of an earlier watch."""
        send = getattr(session, "_faultlines_send", session.send)

        def told(stream: Any, message: Any, *rest: Any, **options: Any) -> Any:
            try:
                self.see(message, *rest, **options)
            except Exception as error:  # a front end must get its message whatever this listener makes of it
                self.broken = f"{type(error).__name__}: {error}"
            return send(stream, message, *rest, **options)

        session._faultlines_send, session.send = send, told

    def cell(self, number: int, asked: str) -> None:
        """Take in that a cell is about to run, and the id of the message that asked for it."""
        self._cells[asked] = number

    def see(self, message: Any, content: Any = None, parent: Any = None, *rest: Any, **options: Any) -> None:
        """Take one message in."""
        if isinstance(message, str):
            kind = message
        else:
            kind, content = message["header"]["msg_type"], message["content"]
            parent = message.get("parent_header") or parent
        parent = (parent or {}).get("header", parent or {})
        number = self._cells.get(parent.get("msg_id", ""), 0)
        if kind == "update_display_data":
            place = self._places.get(content["transient"]["display_id"])
            if place is not None:
                self.shown[place[0]].displayed[place[1]] = dict(content["data"])
        elif number and kind == "stream":
            shown = self.shown.setdefault(number, Shown())
            shown.printed += content["text"] if content["name"] == "stdout" else ""
        elif number and kind == "error":
            self.shown.setdefault(number, Shown()).failed = True
        elif (
            number
            and kind in ("display_data", "execute_result")
            and not {RECORD, RESTAMP} & set(content["data"])
        ):
            shown = self.shown.setdefault(number, Shown())
            shown.displayed.append(dict(content["data"]))
            if handle := (content.get("transient") or {}).get("display_id"):
                self._places[handle] = (number, len(shown.displayed) - 1)
