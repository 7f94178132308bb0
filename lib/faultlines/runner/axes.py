"""The axes of a sweep: `lr=0.001,0.003 dataset=mnist,cifar10 first_seed=0..20..5`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from faultlines.notebook.errors import UsageError

RANGE = re.compile(r"^(?P<first>-?\d+)\.\.(?P<last>-?\d+)(?:\.\.(?P<step>\d+))?$")
MOST = 100_000


def read_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """Read axes as written on the command line.

    An axis is `name=value,value,...`; `a..b` among the values stands for all integers from a to b, both included,
    and `a..b..step` for every step-th. A value with commas of its own, a list, stands in its brackets.

    Args:
        words: One axis a word.

    Returns:
        The values of each axis as text, in the order given.

    Raises:
        UsageError: If a word is no axis, an axis comes twice or has a value twice, or there are more than
            100,000 combinations.

    Example:
        >>> read_axes(["first_seed=0..20..10", "rates=[0.1, 0.2],[0.3]"])
        {'first_seed': ['0', '10', '20'], 'rates': ['[0.1, 0.2]', '[0.3]']}
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier() or not text.strip():
            raise UsageError(f"{word!r} is no axis of a sweep: write name=value,value or name=first..last")
        if name in axes:
            raise UsageError(f"axis {name!r} is given twice: put its values into one word, {name}=a,b")
        values = [value for part in _split(text, word) for value in _expand(part, word)]
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise UsageError(f"axis {word!r} has {', '.join(twice)} twice")
        axes[name] = values
    if (count := math.prod(map(len, axes.values()))) > MOST:
        raise UsageError(f"the sweep has {count} combinations; at most {MOST} can be submitted at once")
    return axes


def combinations(axes: dict[str, list[str]]) -> list[dict[str, str]]:
    """Return every combination of the axes' values, the last axis running fastest.

    Example:
        >>> combinations({"a": ["1", "2"], "b": ["x"]})
        [{'a': '1', 'b': 'x'}, {'a': '2', 'b': 'x'}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _split(text: str, word: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if depth != 0 or "" in parts:
        raise UsageError(f"axis {word!r} has an empty value or a bracket without its other half")
    return parts


def _expand(part: str, word: str) -> list[str]:
    found = RANGE.match(part)
    if found is None:
        return [part]
    first, last, step = int(found["first"]), int(found["last"]), int(found["step"] or 1)
    if last < first or step < 1:
        raise UsageError(f"axis {word!r}: {part} is empty; write first..last or first..last..step")
    if (last - first) // step >= MOST:
        raise UsageError(f"axis {word!r}: {part} has more than {MOST} values")
    return [str(value) for value in range(first, last + 1, step)]
