"""What the book needs of Sphinx beyond its configuration: live buttons, mathematics in docstrings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

# code first, so that a dollar inside backticks stays a dollar
_INLINE = re.compile(
    r"(?P<code>``.+?``|`[^`]+`)|(?<![\\$])\$(?P<math>[^$\s](?:[^$]*[^$\s\\])?)\$(?!\$)", re.DOTALL
)
_TABLE_RULE = re.compile(r"^\s*\|(?:\s*:?-+:?\s*\|)+\s*$")
_DISPLAY = re.compile(r"^(?P<indent> *)\$\$(?P<math>.+?)\$\$ *$", re.DOTALL | re.MULTILINE)


def render_math(lines: list[str]) -> list[str]:
    r"""Rewrite the dollar mathematics of a docstring in the roles and directives of reStructuredText.

    Inline mathematics may run over a line break; a display stands between `$$` on lines of its own. Code in
    backticks and doctest lines are left as they are.

    Args:
        lines: A docstring's lines.

    Returns:
        The lines with `:math:` roles and `.. math::` directives.

    Example:
        >>> render_math(["At most $1/2$, not `$1/2$`.", "", ">>> label('$x$')"])
        ['At most :math:`1/2`, not `$1/2$`.', '', ">>> label('$x$')"]
    """
    blocks = re.split(r"(\n[ \t]*\n)", "\n".join(lines))  # mathematics never crosses a blank line
    return "".join(block if _is_doctest(block) else _render_block(block) for block in blocks).split("\n")


def _is_doctest(block: str) -> bool:
    return any(line.lstrip().startswith(">>>") for line in block.split("\n"))


def _render_block(block: str) -> str:
    def display(match: re.Match[str]) -> str:
        indent = match["indent"]
        body = "\n".join(f"{indent}   {line.strip()}" for line in match["math"].strip().split("\n"))
        return f"\n{indent}.. math::\n\n{body}\n"

    def inline(match: re.Match[str]) -> str:
        if match["math"] is None:
            code = match["code"]
            # Markdown allows a blank beside double backticks, so that code may end in one; here it may without
            return f"``{code[2:-2].strip()}``" if code.startswith("``") else code
        text, start, end = match.string, match.start(), match.end()
        # a role must stand apart from letters beside it; an escaped space does so without showing
        before = "\\ " if start and text[start - 1].isalnum() else ""
        after = "\\ " if end < len(text) and text[end].isalnum() else ""
        return f"{before}:math:`{match['math']}`{after}"

    shown = _DISPLAY.sub(display, block)
    if shown != block:
        return shown
    return _render_table(_INLINE.sub(inline, block))


def _render_table(block: str) -> str:
    """Rewrite a block that is a Markdown table as a directive; any other block is returned as it is."""
    rows = block.strip("\n").split("\n")
    if len(rows) < 3 or not _TABLE_RULE.match(rows[1]):
        return block
    indent = rows[0][: len(rows[0]) - len(rows[0].lstrip())]
    lines = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in (rows[0], *rows[2:]):
        # a bar inside mathematics or code is written \\| in Markdown
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]
        marks = ["* -"] + ["  -"] * (len(cells) - 1)
        lines += [f"{indent}   {mark} {cell}" for mark, cell in zip(marks, cells, strict=True)]
    return "\n".join(lines)


def _process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = render_math(lines)


def _configure_buttons(app: Sphinx, config: Config) -> None:
    """Show launch and repository buttons only where the repository has an address to lead to."""
    options = config.html_theme_options
    if options.get("repository_url"):
        options["use_repository_button"] = True
    else:
        options.pop("launch_buttons", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx; it calls this for each name in its list of extensions."""
    app.connect("config-inited", _configure_buttons)
    # before napoleon (priority 500), which moves the lines into fields
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
