"""Writes the pages of the library reference, one a module and an overview a package, from the packages themselves."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

PACKAGES = ("data", "models", "attacks", "estimators", "training", "studies", "reporting", "notebook")


def concrete_modules(package: str) -> list[str]:
    """Return the full names of a package's public modules, those of nested packages too.

    Args:
        package: A full name such as `"faultlines.models"`.

    Returns:
        Names in alphabetical order; a name with a leading underscore anywhere is private and left out.

    Example:
        >>> concrete_modules("faultlines.models")[0]
        'faultlines.models.attention'
    """
    found = importlib.import_module(package)
    names = [
        module.name for module in pkgutil.walk_packages(found.__path__, f"{package}.") if not module.ispkg
    ]
    return sorted(name for name in names if not any(part.startswith("_") for part in name.split(".")))


def public_names(package: str) -> dict[str, str]:
    """Return what a package re-exports, read from its stub: name -> full name of its home.

    Args:
        package: A full name such as `"faultlines.models"`.

    Returns:
        Names in the order of the stub; empty where the package has none.

    Example:
        >>> public_names("faultlines.models")["ViT"]
        'faultlines.models.vit.ViT'
    """
    stub = Path(str(importlib.import_module(package).__file__)).with_suffix(".pyi")
    if not stub.is_file():
        return {}
    homes = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            # level 1 is the package itself, each further level its parent
            base = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                homes[alias.asname or alias.name] = f"{module}.{alias.name}"
    return homes


def _row(name: str, home: str) -> str:
    """Return a table row for a re-exported name, linked where the page below documents it."""
    module, attribute = home.rsplit(".", 1)
    value = getattr(importlib.import_module(module), attribute)
    documented = (inspect.isclass(value) or inspect.isroutine(value)) and bool(value.__doc__)
    if not documented:
        return f"   * - ``{name}``\n     - A constant or type of ``{module}``."
    # a nested package may re-export in its turn: the definition's own module is what automodule documents
    target = f"{value.__module__}.{value.__qualname__}"
    summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").strip()
    return f"   * - :py:obj:`{name} <{target}>`\n     - {render_math([summary])[0]}"


def _package_page(package: str) -> str:
    doc = inspect.getdoc(importlib.import_module(package)) or ""
    parts = [f"# {package}", doc]
    names = public_names(package)
    if names:
        rows = "\n".join(_row(name, home) for name, home in names.items())
        parts += ["## Public names", _overview(("Name", "What it is"), rows)]
    rows = "\n".join(_module_row(package, module) for module in concrete_modules(package))
    parts += ["## Modules", _overview(("Module", "What is in it"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(header: tuple[str, str], rows: str) -> str:
    head = f"   * - {header[0]}\n     - {header[1]}\n"
    table = ".. list-table::\n   :class: fl-names\n   :widths: 30 70\n   :header-rows: 1"
    return f"```{{eval-rst}}\n{table}\n\n{head}{rows}\n```"


def _module_row(package: str, module: str) -> str:
    summary = (
        (inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0].replace("\n", " ").strip()
    )
    title = module.removeprefix(f"{package}.")
    return f"   * - :py:mod:`{title} <{module}>`\n     - {render_math([summary])[0]}"


def _module_page(module: str) -> str:
    room = module.split(".")[1]
    return (
        f"# {module.removeprefix('faultlines.')}\n\n"
        f"A module of [`faultlines.{room}`](../{room}.md).\n\n"
        f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"
    )


def _index_page() -> str:
    rows = []
    for name in PACKAGES:
        doc = inspect.getdoc(importlib.import_module(f"faultlines.{name}")) or ""
        summary = doc.partition("\n")[0] or "No description yet."
        rows.append(f"[`faultlines.{name}`]({name}.md)\n: {summary}")
    return (
        "# Library\n\n"
        "The chapters stand on a tested library, `faultlines`; these pages are written from the docstrings\n"
        "of the code that ran. [The rooms](../rooms.md) says which imports which.\n\n"
        + "\n\n".join(rows)
        + "\n"
    )


def write_reference(destination: Path) -> None:
    """Write `index.md`, an overview of each package and, in a folder of its name, a page for each concrete module.

    Args:
        destination: The folder to write to, made where missing; pages of earlier calls are replaced.

    Raises:
        ValueError: If `destination` is a file.
    """
    if destination.is_file():
        raise ValueError(f"destination={str(destination)!r} is a file; it must be a folder")
    pages = {"index": _index_page()}
    for name in PACKAGES:
        package = f"faultlines.{name}"
        pages[name] = _package_page(package)
        for module in concrete_modules(package):
            pages[f"{name}/{module.removeprefix(f'{package}.')}"] = _module_page(module)
    for page, text in pages.items():
        path = destination / f"{page}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# mathematics in docstrings

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
