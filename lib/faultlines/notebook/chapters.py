"""A chapter as the runner sees it: cells of text and code, one of them the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from faultlines.notebook.code import cells_hash
from faultlines.notebook.errors import UsageError, one_of
from faultlines.notebook.parameters import Parameter, Rule, read_parameters, read_rules
from faultlines.notebook.project import Project


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether a notebook cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the author's code cells, without the one that papermill injects."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and not has_tag(cell, "injected-parameters")
    ]


@dataclass(frozen=True)
class Chapter:
    """One chapter's source.

    Attributes:
        name: File name without ending, which is the chapter's name everywhere.
        path: The text file.
    """

    name: str
    path: Path

    @classmethod
    def all(cls, project: Project) -> dict[str, Chapter]:
        """Return every chapter in the folder, by name."""
        return {path.stem: cls(path.stem, path) for path in sorted(project.chapters.glob("*.md"))}

    @classmethod
    def named(cls, project: Project, names: list[str]) -> list[Chapter]:
        """Return the named chapters, or all of them where none is named.

        Raises:
            UsageError: If there is no chapter of that name.
        """
        chapters = cls.all(project)
        for name in names:
            if name not in chapters:
                raise one_of("chapter", name, list(chapters))
        return [chapters[name] for name in dict.fromkeys(names or chapters)]

    def notebook(self) -> NotebookNode:
        """Return the source as an unexecuted notebook, which the caller may change."""
        return jupytext.read(self.path)

    @cached_property
    def _source(self) -> NotebookNode:
        return self.notebook()

    @property
    def _cells(self) -> list[NotebookNode]:
        return code_cells(self._source)

    @property
    def size(self) -> int:
        """Number of code cells."""
        return len(self._cells)

    @property
    def title(self) -> str:
        """Text of the first heading."""
        texts = [cell.source for cell in self._source.cells if cell.cell_type == "markdown"]
        for line in "\n".join(texts).splitlines():
            if line.startswith("# "):
                return line[2:].strip()
        return self.name

    @cached_property
    def code_hash(self) -> str:
        """Content hash of the code; text, and the parameters' values, are accounted for elsewhere."""
        return cells_hash(
            cell.source for cell in self._cells[1:-1]
        )  # the first begins, the last writes the record

    @cached_property
    def parameters(self) -> list[Parameter]:
        """What the one cell tagged `parameters` declares.

        Raises:
            UsageError: If there is not exactly one such cell, or it cannot be read.
        """
        cells = [cell for cell in self._cells if has_tag(cell, "parameters")]
        if len(cells) != 1:
            raise UsageError(
                f"{self.path.name} has {len(cells)} cells tagged `parameters`; it needs exactly one"
            )
        return read_parameters(cells[0].source, where=f"{self.path.name}, parameters cell")

    @cached_property
    def rules(self) -> list[Rule]:
        """What the parameters have to fulfil together."""
        cells = [cell for cell in self._cells if has_tag(cell, "parameters")]
        return read_rules(cells[0].source) if cells else []
