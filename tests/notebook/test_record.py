"""A record is believed only in the notebook that it belongs to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness, State
from faultlines.notebook.outputs import LEDGER, RECORD, Shown, Watch, shown_in
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Record, code_cells_of
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_notebook


def judge(checkout: Project, run: str = "default") -> State:
    return Freshness(checkout, Runs.load(checkout)).state(RunSpec(Chapter.all(checkout)["toy"], run))


def record_of(notebook: NotebookNode) -> dict[str, Any]:
    return code_cells_of(notebook)[-1].outputs[0].data[RECORD]


def cell_with(notebook: NotebookNode, text: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if text in cell.source)


def reseal(notebook: NotebookNode) -> None:
    record = Record.model_validate(record_of(notebook))
    record_of(notebook)["seal"] = record.digest()


def other_parameters(notebook: NotebookNode) -> None:
    cell = cell_with(notebook, "seeds: int")
    cell.source = cell.source.replace("seeds: int = 5", "seeds: int = 6")


def injected(notebook: NotebookNode) -> None:
    cell = nbformat.v4.new_code_cell("# Parameters\nseeds = 7\n", execution_count=3)
    notebook.cells.insert(notebook.cells.index(cell_with(notebook, "seeds: int")) + 1, cell)
    renumber(notebook)


def renumber(notebook: NotebookNode) -> None:
    for number, cell in enumerate(code_cells_of(notebook), start=1):
        cell.execution_count = number


def edited_print(notebook: NotebookNode) -> None:
    cell_with(notebook, "print(total)").outputs[0].text = "7\n"


def added_output(notebook: NotebookNode) -> None:
    cell_with(notebook, "total = seeds").outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="ok\n")
    ]


def dropped_output(notebook: NotebookNode) -> None:
    cell_with(notebook, "print(total)").outputs = []


def edited_table(notebook: NotebookNode) -> None:
    cell_with(notebook, "ledger.table").outputs[0].data["text/html"] = "<table>holds</table>"


def edited_sentence(notebook: NotebookNode) -> None:
    data = cell_with(notebook, "say(").outputs[0].data
    data["text/markdown"] = data["text/markdown"].replace("holds", "fails")


def edited_ledger(notebook: NotebookNode) -> None:
    record_of(notebook)["ledger"][0]["verdict"] = "fails"


def edited_ledger_and_seal(notebook: NotebookNode) -> None:
    edited_ledger(notebook)
    reseal(notebook)


def edited_quote(notebook: NotebookNode) -> None:
    record_of(notebook)["quoted"]["C1-verdict"] = "fails"
    reseal(notebook)


def edited_time(notebook: NotebookNode) -> None:
    record_of(notebook)["wall_s"] = 1.0


def edited_record_table(notebook: NotebookNode) -> None:
    code_cells_of(notebook)[-1].outputs[0].data["text/html"] = "made on a large machine"


def crashed(notebook: NotebookNode) -> None:
    cells = code_cells_of(notebook)
    cells[3].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]
    for cell in cells[4:]:
        cell.outputs, cell.execution_count = [], None


def crashed_above_old_outputs(notebook: NotebookNode) -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    code_cells_of(notebook)[3].outputs.append(error)


def out_of_order(notebook: NotebookNode) -> None:
    cells = code_cells_of(notebook)
    cells[3].execution_count, cells[4].execution_count = cells[4].execution_count, cells[3].execution_count


def run_twice(notebook: NotebookNode) -> None:
    for cell in code_cells_of(notebook)[4:]:
        cell.execution_count += 1


def another_version(notebook: NotebookNode) -> None:
    cell = cell_with(notebook, "total = seeds")
    cell.source = "total = seeds + 2"


def a_cell_more(notebook: NotebookNode) -> None:
    notebook.cells.insert(-2, nbformat.v4.new_code_cell("total = 9"))
    renumber(notebook)


def a_cell_less(notebook: NotebookNode) -> None:
    notebook.cells.remove(cell_with(notebook, "print(total)"))
    renumber(notebook)


def no_record(notebook: NotebookNode) -> None:
    code_cells_of(notebook)[-1].outputs = []


def record_elsewhere(notebook: NotebookNode) -> None:
    cells = code_cells_of(notebook)
    cells[4].outputs, cells[-1].outputs = cells[-1].outputs, []


def two_records(notebook: NotebookNode) -> None:
    cells = code_cells_of(notebook)
    cells[4].outputs = copy.deepcopy(cells[-1].outputs)


def half_a_record(notebook: NotebookNode) -> None:
    del record_of(notebook)["modules"]


def a_record_of_words(notebook: NotebookNode) -> None:
    code_cells_of(notebook)[-1].outputs[0].data[RECORD] = {"all": "well"}


def a_time_without_zone(notebook: NotebookNode) -> None:
    record_of(notebook)["started"] = "2026-01-02"


def another_chapters_record(notebook: NotebookNode) -> None:
    record_of(notebook)["chapter"] = "other"
    reseal(notebook)


def only_metadata(notebook: NotebookNode) -> None:
    record = record_of(notebook)
    notebook.metadata["faultlines"] = {"provenance": record, "ledger": record["ledger"]}
    no_record(notebook)


def second_ledger(notebook: NotebookNode) -> None:
    cell = cell_with(notebook, "total = seeds")
    cell.outputs = copy.deepcopy(cell_with(notebook, "ledger.table").outputs)


def parameters_of_the_record(notebook: NotebookNode) -> None:
    record_of(notebook)["parameters"]["seeds"] = 6
    reseal(notebook)


FORGED: dict[str, tuple[Callable[[NotebookNode], None], str]] = {
    "other parameters": (other_parameters, "parameter seeds was 5 and stands there as 6"),
    "other parameters, injected": (injected, "parameter seeds was 5 and stands there as 7"),
    "other parameters in the record": (parameters_of_the_record, "parameter seeds was 6 and stands there as 5"),
    "an edited print": (edited_print, "cell 6 shows what the kernel did not"),
    "an output more": (added_output, "cell 4 shows what the kernel did not"),
    "an output less": (dropped_output, "cell 6 shows what the kernel did not"),
    "an edited table": (edited_table, "cell 7 shows what the kernel did not"),
    "an edited sentence": (edited_sentence, "the sentence of cell 5 is not what was computed"),
    "an edited ledger": (edited_ledger, "its record was edited"),
    "an edited and sealed ledger": (edited_ledger_and_seal, "the ledger of its record is not the one that it shows"),
    "an edited quotation": (edited_quote, "the sentence of cell 5"),
    "an edited time": (edited_time, "its record was edited"),
    "an edited table of the record": (edited_record_table, "its record was edited"),
    "a crash": (crashed, "cell 4 raised ValueError"),
    "a crash above old outputs": (crashed_above_old_outputs, "cell 4 raised ValueError"),
    "cells out of order": (out_of_order, "once each, from top to bottom"),
    "cells run twice": (run_twice, "once each, from top to bottom"),
    "cells of another version": (another_version, "the code of its cells is not the code that was run"),
    "a cell more": (a_cell_more, "the code of its cells is not the code that was run"),
    "a cell less": (a_cell_less, "the code of its cells is not the code that was run"),
    "no record": (no_record, "it holds no record"),
    "a record in the metadata alone": (only_metadata, "it holds no record"),
    "a record in another cell": (record_elsewhere, "not the output of the last cell"),
    "two records": (two_records, "it holds 2 records"),
    "half a record": (half_a_record, "its record cannot be read (modules"),
    "a record of words": (a_record_of_words, "its record cannot be read"),
    "a time without a zone": (a_time_without_zone, "its record cannot be read (started"),
    "the record of another chapter": (another_chapters_record, "it is a run of other"),
    "a second ledger": (second_ledger, "cell 4 shows what the kernel did not"),
}  # fmt: skip


def test_a_result_as_the_kernel_wrote_it_is_fresh(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    assert (judge(checkout).name, judge(checkout).changes) == ("fresh", ())


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_or_broken_notebook_is_foreign(
    checkout: Project, put: Callable[..., Path], what: str
) -> None:
    forge, reason = FORGED[what]
    path = put()
    notebook = nbformat.read(path, as_version=4)
    forge(notebook)
    write_notebook(notebook, path)
    state = judge(checkout)
    assert state.name == "foreign"
    assert reason in "; ".join(state.changes)


def test_desk_under_the_name_of_default_is_foreign(checkout: Project, put: Callable[..., Path]) -> None:
    put("desk", path=checkout.working("default", "toy"))
    state = judge(checkout)
    assert state.name == "foreign"
    assert "parameter seeds is 8 and not 5" in state.changes


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: text[: len(text) // 2], "no complete notebook"),
        (lambda text: text.replace('"cells"', '<<<<<<< HEAD\n"cells"', 1), "merge conflict"),
        (lambda text: json.dumps({"nbformat": 4}), "no complete notebook"),
    ],
    ids=["empty", "truncated", "conflict", "another file"],
)
def test_what_cannot_be_read_is_not_missing(
    checkout: Project, put: Callable[..., Path], harm: Callable[[str], str], said: str
) -> None:
    path = put()
    path.write_text(harm(path.read_text()))
    state = judge(checkout)
    assert state.name == "unreadable"
    assert said in state.changes[0]


def test_a_module_edited_while_it_ran_makes_foreign(checkout: Project, put: Callable[..., Path]) -> None:
    put(edited=["faultlines.reporting.ledger"])
    assert "faultlines.reporting.ledger changed while it ran" in judge(checkout).changes


def test_new_prose_and_comments_leave_a_result_fresh(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    path = checkout.chapters / "toy.md"
    text = path.read_text().replace("A sum {{C1-verdict}}", "The claim that a sum is positive {{C1-verdict}}")
    path.write_text(
        text.replace("total = seeds + 1", "total = seeds + 1  # and one").replace("# Toy", "# A toy")
    )
    assert judge(checkout).name == "fresh"
    path.write_text(text.replace("total = seeds + 1", "total = seeds + 2"))
    assert (judge(checkout).name, judge(checkout).changes) == ("stale", ("chapter toy",))


class Session:
    """As much of a kernel's session as the watch listens to."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, stream: Any, message: Any, *rest: Any, **options: Any) -> None:
        self.sent.append(message if isinstance(message, str) else message["header"]["msg_type"])


def message(kind: str, asked: str, **content: Any) -> dict[str, Any]:
    return {"header": {"msg_type": kind}, "parent_header": {"msg_id": asked}, "content": content}


def test_the_watch_sees_what_a_notebook_will_hold() -> None:
    session, watch = Session(), Watch()
    watch.start(session)
    watch.cell(1, "a")
    watch.cell(2, "b")
    display = {"data": {"text/plain": "…"}, "metadata": {}, "transient": {"display_id": "later"}}
    session.send(None, message("display_data", "a", **display))
    session.send(None, message("stream", "b", name="stdout", text="on"))
    session.send(None, "stream", {"name": "stdout", "text": "e\n"}, {"header": {"msg_id": "b"}})
    session.send(None, message("stream", "b", name="stderr", text="a warning"))
    session.send(None, message("display_data", "b", data={"text/html": "<b>"}, metadata={}))
    update = {"data": {"text/plain": "3"}, "metadata": {}, "transient": {"display_id": "later"}}
    session.send(None, message("update_display_data", "b", **update))
    assert not watch.broken
    assert len(session.sent) == 6
    assert watch.shown[1] == Shown("", [{"text/plain": "3"}])
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="one\n"),
        nbformat.v4.new_output("display_data", {"text/html": "<b>"}),
    ]
    assert watch.shown[2].digest() == shown_in(outputs).digest() != ""


def test_the_ledgers_payload_has_no_times(put: Callable[..., Path]) -> None:
    notebook = nbformat.read(put(), as_version=4)
    [rows] = [
        o.data[LEDGER] for c in notebook.cells for o in c.get("outputs", []) if LEDGER in o.get("data", {})
    ]
    assert "cost_s" not in rows[0]
    assert record_of(notebook)["ledger"][0]["cost_s"] == 1.0
