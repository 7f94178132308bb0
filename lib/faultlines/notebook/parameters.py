"""A chapter's parameters: one typed, commented cell, and the check of every value against it.

The cell is the only place where a parameter is declared:

    seeds: int = 5  # paired seeds [2..64]
    dataset: str = "digits"  # data set [data set]
    pool: str = "cls"  # how tokens are read out [cls | mean]

The bracket at the end of the comment says what is allowed: a closed range of numbers, a choice of words, or
the name of a check (`data set`, `device`; `file` and `folder`, which is there or is an empty word). For a list it holds
for each element. What no range of one parameter can say stands on lines of its own:

    # must: dim % heads == 0 -- the heads share the width

The expression sees the parameters by name, `image_shape(data set)` as (channels, height, width), `images_of(data set)`
as (training, test), `classes_of(data set)`, and Python's own `all any len max min set sorted sum zip range`.

papermill itself accepts any name and any value. `check_parameters` holds them against the cell from inside the kernel,
whichever tool executes; the command line does so before a kernel starts.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

from faultlines.notebook.errors import UsageError

SCALARS: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
RANGE = re.compile(rf"^(?P<low>{NUMBER})\s*\.\.\s*(?P<high>(?:{NUMBER})?)$")
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

NAMED = ("data set", "device", "file", "folder")
MUST = re.compile(r"^#\s*must:\s*(?P<rule>.+?)\s+--\s+(?P<reason>.+)$")
TAGS = (yaml.TagToken, yaml.AnchorToken, yaml.AliasToken)
LONGEST = 60  # characters of a value that a message repeats
BUILTIN: dict[str, Any] = {
    f.__name__: f for f in (abs, all, any, int, len, max, min, set, sorted, sum, zip, range)
}

Check = Callable[[str], None]


def shown(value: Any) -> str:
    """Return a value as a message repeats it: not whole where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"({type(value).__name__} with too many digits to show)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    Attributes:
        name: Its name in the chapter.
        type: Its annotation as written: `int`, `float`, `str`, `bool`, or `list[...]` of one of these.
        default: Its value in the chapter, which is the embedded default run.
        comment: What the comment says, without the bracket.
        allowed: What stands in the bracket, empty where every value of the type will do.
    """

    name: str
    type: str
    default: Any
    comment: str
    allowed: str

    @property
    def scalar(self) -> str:
        """Type of one element."""
        return self.type.removeprefix("list[").removesuffix("]")

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return self.type.startswith("list[")

    def parse(self, text: str) -> Any:
        """Read a value as written on the command line, `0.1` or `[1, 2]` or `mnist`.

        Raises:
            UsageError: If the text cannot be read as a value of the type.
        """
        if self.type == "str":
            return text
        try:
            if not self.is_list:
                return self._read(text.strip())
            # the base loader leaves every word a word: YAML 1.1 itself reads 010 as 8, 1:30 as 90 and `on` as true
            if len(text) > 10_000 or any(isinstance(token, TAGS) for token in yaml.scan(text)):
                raise TypeError
            words = yaml.load(text, yaml.BaseLoader)
            if not isinstance(words, list):
                raise TypeError
            return [self._read(word) for word in words]
        except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
            such = f"{'a list is written [a, b]; ' if self.is_list else ''}default {self.default!r}"
            raise UsageError(
                f"parameter {self.name}={shown(text)} cannot be read as {self.type} ({such})"
            ) from None

    def _read(self, word: Any) -> Any:
        if not isinstance(word, str):
            raise TypeError
        return TRUTH[word.lower()] if self.scalar == "bool" else SCALARS[self.scalar](word)

    def check(self, value: Any, checks: Mapping[str, Check]) -> Any:
        """Return the value in its declared type.

        Raises:
            UsageError: If type, range, choice or a named check says no.
        """
        if not self.is_list:
            return self._check_scalar(value, checks)
        if isinstance(value, str):
            raise UsageError(
                f"parameter {self.name}={shown(value)} is a word, must be {self.type} (papermill's -p passes no lists:"
                f" say -y '{self.name}: {json.dumps(self.default)}')"
            )
        if not isinstance(value, list) or not value:
            raise UsageError(f"parameter {self.name}={shown(value)} must be a non-empty {self.type}")
        return [self._check_scalar(element, checks) for element in value]

    def _check_scalar(self, value: Any, checks: Mapping[str, Check]) -> Any:
        kind: type = SCALARS[self.scalar]
        if kind is float and (type(value) is int or (isinstance(value, str) and re.fullmatch(NUMBER, value))):
            try:
                value = kind(value)  # YAML 1.1 reads a 1e-3 of runs.yml as a word
            except OverflowError:
                raise UsageError(f"parameter {self.name}={shown(value)} is not a finite number") from None
        value = cast(Any, value)
        if type(value) is not kind:
            raise UsageError(
                f"parameter {self.name}={shown(value)} is {type(value).__name__}, must be {self.type}"
                f" (default {self.default!r})"
            )
        if kind is float and not math.isfinite(cast(Any, value)):
            raise UsageError(f"parameter {self.name}={shown(value)} is not a finite number")
        if not self.allowed:
            return value
        if self.allowed in NAMED:
            try:
                checks.get(self.allowed, lambda _: None)(value)
            except ValueError as error:
                raise UsageError(f"parameter {self.name}={shown(value)}: {error}") from None
            return value
        span = RANGE.match(self.allowed)
        if span:
            low, high = float(span["low"]), float(span["high"] or "inf")
            if not low <= cast(Any, value) <= high:
                raise UsageError(f"parameter {self.name}={shown(value)} is outside {self.allowed}")
            return value
        choices = [choice.strip() for choice in self.allowed.split("|")]
        if value not in [self._read(choice) for choice in choices]:
            raise UsageError(f"parameter {self.name}={shown(value)} is not one of {', '.join(choices)}")
        return value

    def declared_well(self) -> bool:
        """Whether the bracket says something that a value of this type can be held against."""
        if not self.allowed:
            return True
        if self.allowed in NAMED:
            return self.scalar == "str"
        if ".." in self.allowed:
            return bool(RANGE.match(self.allowed)) and self.scalar in ("int", "float")
        try:
            return all(self._read(choice.strip()) is not None for choice in self.allowed.split("|"))
        except (ValueError, KeyError):
            return False


@dataclass(frozen=True)
class Rule:
    """What several parameters have to fulfil together.

    Attributes:
        expression: A Python expression of the parameters.
        reason: Why, in words.
    """

    expression: str
    reason: str

    def check(self, values: Mapping[str, Any], helpers: Mapping[str, Callable[..., Any]]) -> None:
        """Refuse values that break the rule.

        Raises:
            UsageError: If they do; the message names the parameters that the rule speaks of.
        """
        words = {node.id for node in ast.walk(ast.parse(self.expression)) if isinstance(node, ast.Name)}
        given = ", ".join(f"{name}={shown(values[name])}" for name in values if name in words)
        try:
            kept = evaluate(self.expression, values, helpers)
        except (ArithmeticError, LookupError, ValueError, TypeError) as error:
            raise UsageError(f"parameters {given}: {self.reason} ({error})") from None
        if not kept:
            raise UsageError(f"parameters {given}: {self.reason} (must be: {self.expression})")


def evaluate(expression: str, values: Mapping[str, Any], helpers: Mapping[str, Callable[..., Any]]) -> Any:
    """Return the value of an expression that the book itself holds: of parameters, with some functions to call.

    Args:
        expression: In Python; it has `BUILTIN` besides.
        values: The parameters by name.
        helpers: The functions by name.

    Example:
        >>> evaluate("half(sum(widths))", {"widths": [4, 8]}, {"half": lambda n: n // 2})
        6
    """
    # comprehensions look names up among the globals
    return eval(expression, {"__builtins__": BUILTIN, **helpers, **values})


def read_rules(source: str) -> list[Rule]:
    """Read the rules of a parameters cell.

    Example:
        >>> read_rules("# must: dim % heads == 0 -- the heads share the width")
        [Rule(expression='dim % heads == 0', reason='the heads share the width')]
    """
    found = [MUST.match(line.strip()) for line in source.splitlines()]
    return [Rule(match["rule"], match["reason"]) for match in found if match]


def read_parameters(source: str, where: str = "parameters cell") -> list[Parameter]:
    """Read a parameters cell.

    Args:
        source: The cell.
        where: How to name it in an error.

    Raises:
        UsageError: If a line is not `name: type = literal  # comment`, a name comes twice, or a bracket
            cannot be read.

    Example:
        >>> [p] = read_parameters("eps: float = 0.1  # radius of the ball [0..1]")
        >>> p.name, p.type, p.default, p.comment, p.allowed
        ('eps', 'float', 0.1, 'radius of the ball', '0..1')
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"{where}, line {error.lineno}: {error.msg}") from None
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parameters: list[Parameter] = []
    for node in body:
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
        ):
            raise UsageError(f"{where}, line {node.lineno}: a parameter is `name: type = value  # comment`")
        annotation = ast.unparse(node.annotation)
        if annotation.removeprefix("list[").removesuffix("]") not in SCALARS:
            raise UsageError(
                f"{where}, line {node.lineno}: type {annotation!r} is not {' | '.join(SCALARS)} or a list"
            )
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise UsageError(
                f"{where}, line {node.lineno}: the value of {node.target.id} must be written out, not computed"
                f" ({ast.unparse(node.value)}); derive what follows from parameters in a later cell"
            ) from None
        comment = comments.get(node.end_lineno or node.lineno, "")
        found = re.search(r"\[([^\[\]]+)\]$", comment)
        parameter = Parameter(
            name=node.target.id,
            type=annotation,
            default=default,
            comment=comment[: found.start()].strip() if found else comment,
            allowed=found[1].strip() if found else "",
        )
        if not parameter.declared_well():
            raise UsageError(
                f"{where}, line {node.lineno}: [{parameter.allowed}] is not a range of numbers low..high, a choice"
                f" a | b of {parameter.scalar}, or for a str one of {', '.join(NAMED)}"
            )
        if any(parameter.name == other.name for other in parameters):
            raise UsageError(f"{where}, line {node.lineno}: {parameter.name} is declared twice")
        parameters.append(parameter)
    return parameters


def resolve(
    declared: list[Parameter],
    values: Mapping[str, Any],
    where: str,
    checks: Mapping[str, Check],
    rules: Iterable[Rule] = (),
) -> dict[str, Any]:
    """Return every parameter's value: the defaults, overridden by `values`, all checked.

    Args:
        declared: What the chapter declares.
        values: Overrides, from `runs.yml`, the command line or papermill (already parsed).
        where: Whose parameters these are, for the error.
        checks: Named checks by the word in the bracket; each raises ValueError on a bad value.
        rules: What the parameters have to fulfil together.

    Raises:
        UsageError: On an unknown name or a value that is not allowed.
    """
    by_name = {parameter.name: parameter for parameter in declared}
    for name in values:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{where} has no parameter {name!r}{hint} (it has {', '.join(by_name)})")
    resolved = {
        name: parameter.check(values.get(name, parameter.default), checks)
        for name, parameter in by_name.items()
    }
    for rule in rules:
        rule.check(resolved, HELPERS)
    return resolved


# what a value is held against beyond its range


def check_data_set(name: str) -> None:
    """Raise ValueError where a data set is neither here nor to be had."""
    if name == "digits":
        return  # embedded: no need to load the library to know
    from faultlines.data import available, load

    known = {entry.name: entry for entry in available()}
    if name in known and known[name].source:
        return
    try:
        load(name)  # downloads it where there is a network, which is better done before anything waits for it
    except OSError as error:
        raise ValueError(" ".join(str(error).split())) from None


def check_device(name: str) -> None:
    """Raise ValueError where a device is unknown or not there."""
    kind, colon, index = name.partition(":")
    if name in ("auto", "cpu"):
        return
    import torch

    if kind == "cuda" and (not colon or index.isdecimal()):
        if int(index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"this machine has {torch.cuda.device_count()} CUDA devices; cpu or auto will do"
            )
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError("a device is auto, cpu, cuda or cuda:N") from None


def image_shape(name: str) -> tuple[int, int, int]:
    """Return channels, height and width of a data set's images; see `faultlines.data.image_shape`."""
    from faultlines import data

    return data.image_shape(name)


def images_of(name: str) -> tuple[int, int]:
    """Return the numbers of training and of test images of a data set, without reading them."""
    from faultlines.data import available

    [found] = [(entry.n_train, entry.n_test) for entry in available() if entry.name == name]
    return found


def classes_of(name: str) -> int:
    """Return the number of classes of a data set, without reading its images."""
    from faultlines.data import catalogue

    return catalogue.n_classes(name)


def check_path(path: str, kind: str) -> None:
    """Raise ValueError where a file or a folder is named that is not there; an empty word names none.

    Args:
        path: What is named.
        kind: `"file"` or `"folder"`.
    """
    try:
        there = not path or (Path(path).is_file() if kind == "file" else Path(path).is_dir())
    except (OSError, ValueError):  # a name too long, or with a zero in it
        there = False
    if not there:
        raise ValueError(f"there is no such {kind} (looked in {Path.cwd()})")


CHECKS: dict[str, Check] = {
    "data set": check_data_set,
    "device": check_device,
    "file": partial(check_path, kind="file"),
    "folder": partial(check_path, kind="folder"),
}
HELPERS: dict[str, Callable[..., Any]] = {
    "image_shape": image_shape,
    "images_of": images_of,
    "classes_of": classes_of,
}
