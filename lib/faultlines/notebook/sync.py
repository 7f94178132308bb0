"""Bring a chapter's present text into a notebook that was executed before, without executing it.

Prose, captions, comments and the wording around results are the chapter's; outputs and the record stay as they were.
(`jupytext --sync` pairs the two files as well, but it takes the outputs of a cell whose comment was mended.)
"""

from __future__ import annotations

import copy

import nbformat
from nbformat import NotebookNode

from faultlines.notebook.code import cells_hash, declares_parameters, injected_values, said_text
from faultlines.notebook.errors import UsageError
from faultlines.notebook.parameters import read_parameters, resolve
from faultlines.notebook.provenance import code_cells_of, read_record
from faultlines.notebook.store import number_cells
from faultlines.reporting.prose import bundle, missing


def with_text_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook with the text of its chapter.

    Args:
        source: The chapter as it is now, not executed.
        executed: A notebook with a record; it is left as it is.

    Raises:
        UsageError: If the chapter's code is another, or its text quotes what the execution did not: then it has to be
            executed.
    """
    ours, theirs = _ran(source), _ran(executed)
    same = [cells_hash(cell.source for cell in cells[1:-1]) for cells in (ours, theirs)]
    if same[0] != same[1]:
        raise UsageError("the chapter's code has changed since the notebook was executed: run it again")
    return with_cells_of(source, executed)


def with_cells_of(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return an executed notebook with the cells of its chapter, whose code may be written otherwise; see above.

    Raises:
        UsageError: If it has other cells, or its text quotes what the execution did not.
    """
    record, _ = read_record(executed)
    if record is None:
        raise UsageError("the notebook holds no record: it was not run to its end")
    theirs = _ran(executed)
    injected = [cell for cell in code_cells_of(executed) if injected_values(cell.source) is not None]
    if len(_ran(source)) != len(theirs):
        raise UsageError("the chapter has other cells than the notebook that was executed: run it again")
    page = copy.deepcopy(executed)
    page.cells = []
    outputs = iter(theirs)
    for cell in map(copy.deepcopy, source.cells):
        page.cells.append(cell)
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        text = said_text(cell.source)
        if text is not None:
            if names := missing(text, record.quoted):
                raise UsageError(
                    f"the text names {', '.join(names)}, which the run did not quote: run it again"
                )
            cell.outputs = [nbformat.v4.new_output("display_data", bundle(text, record.quoted))]
            continue
        old = next(outputs)
        cell.outputs = copy.deepcopy(old.outputs)
        if declares_parameters(cell.source):
            values = [value for c in injected for value in (injected_values(c.source) or {}).items()]
            try:
                kept = resolve(read_parameters(cell.source), dict(values), "", {}) == record.parameters
            except UsageError:
                kept = False
            cell.source = cell.source if kept else old.source
            page.cells += copy.deepcopy(injected)
    for number, cell in enumerate(code_cells_of(page), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    number_cells(page)
    return page


def _ran(notebook: NotebookNode) -> list[NotebookNode]:
    # the chapter's own cells that compute
    return [
        cell
        for cell in code_cells_of(notebook)
        if said_text(cell.source) is None and injected_values(cell.source) is None
    ]
