from __future__ import annotations

from pathlib import Path

import pytest

import faultlines
from faultlines.notebook.code import cells_hash, changed, library_code

SAME = {
    "a comment": ("x = 1", "# why\nx = 1  # because\n"),
    "blank lines and trailing blanks": ("x = 1\ny = 2", "\n\nx = 1   \n\n\n  \ny = 2\n"),
    "a docstring": ('def f():\n    """One."""\n    x', 'def f():\n    """Two.\n\n    More.\n    """\n    x'),
    "a docstring that goes": ('class A:\n    "Doc."\n    x = 1', "class A:\n    x = 1"),
    "a module's docstring": ('"""One."""\nx = 1', "'''Two\n\nlines'''\nx = 1"),
    "an async function's": ('async def f():\n    "a"\n    return 1', 'async def f():\n    "b"\n    return 1'),
    "a nested function's": (
        'def f():\n    def g():\n        "a"\n        return 1\n    return g',
        'def f():\n    def g():\n        "b\\n"\n\n        return 1\n    return g',
    ),
    "code behind a docstring": ('def f():\n    "a"; return 1', 'def f():\n    "longer"; return 1'),
    "wide letters before and in it": ('"""π ≤ 1"""; x = "é"', '"""∞"""; x = "é"  # ∂'),
    "a form feed between functions": ("x = 1\n\f\ny = 2  # a", "x = 1\n\f\ny = 2  # b"),
    "Windows line ends": ("x = 1\ny = 2\n", "x = 1\r\ny = 2\r\n"),
    "a comment behind a separator in a string": ('x = "a\u2028b"\ny = 1  # c', 'x = "a\u2028b"\ny = 1'),
}  # fmt: skip

DIFFERENT = {
    "a constant": ("x = 1", "x = 2"),
    "a hash sign in a string": ('x = "# one"', 'x = "# two"'),
    "a hash sign in an f-string": ('x = f"{y} # one"', 'x = f"{y} # two"'),
    "a string that is not a docstring": ('x = 1\n"a"', 'x = 1\n"b"'),
    "a docstring's place in an expression": ('def f():\n    return "a"', 'def f():\n    return "b"'),
    "an f-string where a docstring would be": ('def f():\n    f"{x}"', 'def f():\n    f"{y}"'),
    "a blank line inside a string": ('x = """a\n\nb"""', 'x = """a\nb"""'),
    "trailing blanks inside a string": ('x = """a  \nb"""', 'x = """a\nb"""'),
    "a blank line inside an f-string": ('x = f"""{y}\n\nb"""', 'x = f"""{y}\nb"""'),
    "a hash sign inside a long string": ('x = """a\n# one\n"""', 'x = """a\n# two\n"""'),
    "indentation": ("if a:\n    x = 1\n    y = 1", "if a:\n    x = 1\ny = 1"),
    "code behind a docstring": ('def f():\n    "a"; return 1', 'def f():\n    "a"; return 2'),
    "code that does not parse": ("%time x = 1", "%time x = 2"),
}


@pytest.mark.parametrize("case", SAME)
def test_what_does_not_count(case: str) -> None:
    one, other = SAME[case]
    assert cells_hash([one]) == cells_hash([other])


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_counts(case: str) -> None:
    one, other = DIFFERENT[case]
    assert cells_hash([one]) != cells_hash([other])


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small package with a lazy room, private modules and everything that may be written otherwise."""
    root = tmp_path / "faultlines"
    files = {
        "__init__.py": "",
        "attacks/__init__.py": "import lazy_loader as lazy\n\n"
        "__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)\n",
        "attacks/__init__.pyi": "from .pgd import attack as attack\n",
        "attacks/pgd.py": '"""Walks."""\nfrom faultlines.attacks._steps import step\nimport numpy as np\n\n'
        "STEPS = 10\n\n\ndef attack(x):\n    return np.sign(step(x)) * STEPS\n",
        "attacks/_steps.py": "def step(x):\n    return x + 1\n",
        "attacks/other.py": "def step(x):\n    return x + 2\n",
        "study.py": "from faultlines.attacks import attack\n\n\ndef study():\n    return attack(1)\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def edit(library: Path, name: str, old: str, new: str) -> None:
    path = library / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def rename(library: Path, old: str, new: str, name: str) -> None:
    (library / new).parent.mkdir(parents=True, exist_ok=True)
    (library / old).rename(library / new)
    dotted = [str(Path(path).with_suffix("")).replace("/", ".") for path in (old, new)]
    edit(library, name, *(f"faultlines.{path}" for path in dotted))


REFACTORINGS = {
    "nothing": lambda at: None,
    "a private module renamed": lambda at: rename(
        at, "attacks/_steps.py", "attacks/_walk.py", "attacks/pgd.py"
    ),
    "a private module in another room": lambda at: rename(
        at, "attacks/_steps.py", "steps.py", "attacks/pgd.py"
    ),
    "a function annotated": lambda at: edit(at, "attacks/pgd.py", "attack(x)", "attack(x: 'int') -> 'int'"),
    "a constant annotated": lambda at: edit(at, "attacks/pgd.py", "STEPS = 10", "STEPS: int = 10"),
    "a docstring": lambda at: edit(at, "attacks/pgd.py", "attack(x):\n", 'attack(x):\n    """Walk."""\n'),
    "formatting": lambda at: edit(
        at, "attacks/pgd.py", "np.sign(step(x)) * STEPS", "(np.sign( step(x) )\n * STEPS)"
    ),
    "an alias of an import": lambda at: (
        edit(at, "attacks/pgd.py", "import numpy as np", "import numpy"),
        edit(at, "attacks/pgd.py", "np.sign", "numpy.sign"),
    ),
    "a function imported under another name": lambda at: (
        edit(at, "attacks/pgd.py", "import step", "import step as walk"),
        edit(at, "attacks/pgd.py", "step(x)", "walk(x)"),
    ),
    "a function through its module": lambda at: (
        edit(
            at,
            "attacks/pgd.py",
            "from faultlines.attacks._steps import step",
            "from faultlines.attacks import _steps",
        ),
        edit(at, "attacks/pgd.py", "step(x)", "_steps.step(x)"),
    ),
    "a public name moved to another module": lambda at: (
        (at / "attacks/pgd.py").rename(at / "attacks/walks.py"),
        edit(at, "attacks/__init__.pyi", ".pgd", ".walks"),
    ),
    "two modules made one": lambda at: (
        edit(at, "attacks/pgd.py", "from faultlines.attacks._steps import step\n", ""),
        edit(at, "attacks/pgd.py", "STEPS = 10\n", "STEPS = 10\n\n\ndef step(x):\n    return x + 1\n"),
        (at / "attacks/_steps.py").unlink(),
    ),
    "an import by its path": lambda at: edit(
        at, "study.py", "from faultlines.attacks import attack", "from faultlines.attacks.pgd import attack"
    ),
    "a definition more": lambda at: edit(
        at, "study.py", "def study", "def other():\n    return 3\n\n\ndef study"
    ),
    "a cast for the type checker": lambda at: edit(at, "attacks/pgd.py", "step(x))", "cast(int, step(x)))"),
}

CHANGES = {
    "a constant": lambda at: edit(at, "attacks/pgd.py", "STEPS = 10", "STEPS = 11"),
    "a number in a function": lambda at: edit(at, "attacks/_steps.py", "x + 1", "x + 3"),
    "a default": lambda at: edit(at, "attacks/_steps.py", "step(x)", "step(x=0)"),
    "another function under the same name": lambda at: edit(at, "attacks/pgd.py", "._steps", ".other"),
    "a public name of another module": lambda at: edit(
        at, "attacks/__init__.pyi", ".pgd import attack as attack", ".other import step as attack"
    ),
    "a function that went": lambda at: edit(at, "attacks/_steps.py", "def step", "def stride"),
    "a decorator": lambda at: edit(at, "study.py", "def study", "@print\ndef study"),
    "another library": lambda at: edit(at, "attacks/pgd.py", "import numpy as np", "import torch as np"),
    "a constant that moved and changed": lambda at: (
        edit(at, "attacks/pgd.py", "STEPS = 10", "from faultlines.attacks.other import STEPS"),
        edit(at, "attacks/other.py", "def step", "STEPS = 20\n\n\ndef step"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFACTORINGS)
def test_refactoring_is_no_change(library: Path, what: str) -> None:
    before = library_code(library)
    REFACTORINGS[what](library)
    assert changed(before, library_code(library)) == []


@pytest.mark.parametrize("what", CHANGES)
def test_another_computation_is_a_change(library: Path, what: str) -> None:
    before = library_code(library)
    CHANGES[what](library)
    assert changed(before, library_code(library))


def test_the_data_file_that_a_module_reads_is_part_of_it(library: Path) -> None:
    (library / "numbers.json").write_text("[1]")
    (library / "others.json").write_text("[1]")
    (library / "reader.py").write_text(
        'from pathlib import Path\nNUMBERS = Path(__file__).with_name("numbers.json")\n'
        "def read() -> str:\n    return NUMBERS.read_text()\ndef other() -> int:\n    return 1\n"
    )
    before = library_code(library)
    (library / "others.json").write_text("[2]")
    assert changed(before, library_code(library)) == []
    (library / "numbers.json").write_text("[2]")
    assert changed(before, library_code(library)) == ["faultlines.reader.NUMBERS", "faultlines.reader.read"]


def test_the_library_itself_is_read_and_stays_the_same() -> None:
    root = Path(faultlines.__file__).parent
    code = library_code(root)
    assert {"faultlines.attacks.pgd", "faultlines.notebook.code"} <= code.keys()
    assert code == library_code(root)


def test_where_a_cell_imports_from_counts_for_nothing_within_the_library_only() -> None:
    cell = "from {} import fit\nfit(1)"
    ours, moved, theirs = (cell.format(m) for m in ("faultlines.training", "faultlines.studies.x", "sklearn"))
    assert cells_hash([ours]) == cells_hash([moved]) != cells_hash([theirs])


def test_prose_parameters_and_their_injection_count_for_nothing() -> None:
    code = "x = n + 1"
    declared, injected, prose = "n: int = 1  # [0..9]", "# Parameters\nn = 3\n", 'say("""It is {{x}}.""")'
    assert cells_hash([declared, injected, code, prose]) == cells_hash([code])
    assert cells_hash(["n = 3", code]) != cells_hash([code])
    assert cells_hash(["say(text)", code]) != cells_hash([code])
