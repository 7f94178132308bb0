from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultlines.notebook.project import Project
from faultlines.notebook.provenance import commit_of
from faultlines.notebook.store import UnreadableError, read_result, write_atomic


def test_a_result_is_read_back(put: Callable[..., Path]) -> None:
    result = read_result(put())
    assert result.provenance.chapter == "toy"
    assert result.ledger[0]["claim"] == "C1"


def test_half_a_notebook_is_unreadable_and_says_so(put: Callable[..., Path]) -> None:
    path = put()
    text = path.read_text()
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_text(text[: int(len(text) * share)])
        with pytest.raises(UnreadableError, match="empty" if not share else "no complete notebook"):
            read_result(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UnreadableError, match="no text"):
        read_result(path)
    path.write_text("<<<<<<< ours\n" + text)
    with pytest.raises(UnreadableError, match="merge conflict"):
        read_result(path)
    assert read_result(path.with_name("nothing.ipynb")) is None
    path.with_name("folder.ipynb").mkdir()
    path.with_name("link.ipynb").symlink_to(path.with_name("nothing.ipynb"))
    for name, reason in (("folder", "it is a folder"), ("link", "it is a link to nothing")):
        with pytest.raises(UnreadableError, match=reason):
            read_result(path.with_name(f"{name}.ipynb"))


ODD: dict[str, Callable[[dict], Any]] = {
    "a list": lambda n: [n],
    "no cells": lambda n: n.pop("cells") and n,
    "cells that are words": lambda n: n | {"cells": ["a"]},
    "a cell without source": lambda n: n["cells"][0].pop("source") and n,
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_notebook_is_unreadable(put: Callable[..., Path], case: str) -> None:
    path = put()
    path.write_text(json.dumps(ODD[case](json.loads(path.read_text()))))
    with pytest.raises(UnreadableError):
        read_result(path)


def test_a_write_that_fails_leaves_the_old_text_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_without_git_has_no_commit(checkout: Project) -> None:
    assert commit_of(checkout.root).startswith("faultlines ")
