from __future__ import annotations

from pathlib import Path

import pytest

from faultlines.notebook.hashing import code_hash, code_only, library_hashes

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
    assert code_hash(one) == code_hash(other)


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_counts(case: str) -> None:
    one, other = DIFFERENT[case]
    assert code_hash(one) != code_hash(other)


def test_what_remains_is_the_code_itself() -> None:
    source = 'def f(x):\n    """Say.\n\n    More.\n    """\n    y = """a\n\n # b """  # c\n    return y\n'
    assert code_only(source) == 'def f(x):\n    y = """a\n\n # b """\n    return y'


def test_what_remains_of_the_library_still_compiles() -> None:
    import faultlines

    for path in Path(faultlines.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        kept = code_only(source)
        # a body that was a docstring alone is empty now, and only that may fail to compile
        try:
            compile(kept, str(path), "exec")
        except IndentationError as error:
            assert "expected an indented block" in str(error)
        assert code_only(source + "\n# a comment\n") == kept


def test_modules_are_named_as_python_names_them(tmp_path: Path) -> None:
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "sub/__init__.py", "sub/b.py", "sub/b.pyi"):
        (tmp_path / "pkg" / name).write_text("x = 1\n")
    assert set(library_hashes(tmp_path / "pkg")) == {"pkg", "pkg.a", "pkg.sub", "pkg.sub.b"}
