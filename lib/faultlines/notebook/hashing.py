"""What counts as a change: code does; comments, docstrings and blank lines do not."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from functools import lru_cache
from pathlib import Path
from typing import Any


def digest(text: str) -> str:
    """Return a short content hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_only(source: str) -> str:
    r"""Return Python source without comments, docstrings, trailing blanks and empty lines.

    What stands inside a string over several lines is data, and stays to the letter.

    The text that remains is the author's own, not a re-rendering of the syntax tree, so the hash of it is the
    same under every Python version. Source that does not parse (a cell with a shell magic) is returned as it
    is.

    Example:
        >>> code_only("def f(x):\n    'Add one.'\n\n    return x + 1  # one\n")
        'def f(x):\n    return x + 1'
    """
    # not splitlines, which also breaks at form feeds and Unicode separators, where Python sees no new line
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, tokenize.TokenError, ValueError):
        return source
    lines = [list(line) for line in source.split("\n")]
    in_string = _rows_ending_in_a_string(tokens)
    for token in tokens:
        if token.type == tokenize.COMMENT and token.start[0] not in in_string:
            row, start = token.start
            lines[row - 1][start:] = ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            _blank(lines, text.lineno, text.col_offset, text.end_lineno, text.end_col_offset)
            in_string -= set(range(text.lineno, text.end_lineno))
    kept = []
    for row, line in enumerate(map("".join, lines), start=1):
        if row in in_string:
            kept.append(line)
        elif line.strip():
            kept.append(line.rstrip())
    return "\n".join(kept)


def _rows_ending_in_a_string(tokens: list[tokenize.TokenInfo]) -> set[int]:
    rows: set[int] = set()
    opened: list[int] = []  # Python 3.12 tells the start and the end of an f-string as tokens of their own
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            rows |= set(range(token.start[0], token.end[0]))
        elif kind in ("FSTRING_START", "TSTRING_START"):
            opened.append(token.start[0])
        elif kind in ("FSTRING_END", "TSTRING_END"):
            rows |= set(range(opened.pop(), token.end[0]))
    return rows


def _blank(lines: list[list[str]], row: int, column: int, end_row: int, end_column: int) -> None:
    # ast counts columns in UTF-8 bytes; only the last line of a docstring can hold code behind it (`; x = 1`)
    first, last = "".join(lines[row - 1]).encode(), "".join(lines[end_row - 1]).encode()
    before, after = first[:column].decode(), last[end_column:].decode()
    for inner in range(row, end_row + 1):
        lines[inner - 1] = []
    lines[row - 1] = list(before + after)


@lru_cache(maxsize=1024)  # one command judges the whole library several times
def code_hash(source: str) -> str:
    """Return the content hash of Python source as `code_only` sees it."""
    return digest(code_only(source))


def library_hashes(library: Path) -> dict[str, str]:
    """Return the code hash of every module of the package in folder `library`, by dotted name."""
    hashes = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        hashes[name] = code_hash(path.read_text(encoding="utf-8"))
    return hashes


def parameters_hash(parameters: dict[str, Any]) -> str:
    """Return the content hash of a set of resolved parameters."""
    return digest(json.dumps(parameters, sort_keys=True))
