"""What counts as a change of code: what it does; not how it is written, annotated, explained, or where it stands.

A module is the set of its top-level definitions, each with a hash of its syntax: without comments, docstrings,
annotations and formatting, and with every imported name replaced by what it names. So a definition that moves to
another module, or a module that is renamed, leaves every hash as it was, while another constant, an import that
brings in another definition under the same name, or another content of a data file that stands beside the module, does
not.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

Modules = dict[str, dict[str, str]]
"""Hash of every top-level definition, by module and name; a statement that defines no name has its hash for one."""

PACKAGE = "faultlines"
SKIPPED = {"type_comment", "type_params", "kind", "ctx", "returns"}


def digest(text: str) -> str:
    """Return a short content hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Names:
    """What the imports of some source bind: a name of the package, a module of it, or something from outside.

    Attributes:
        bound: Dotted origin of each name.
    """

    def __init__(self, trees: Iterable[ast.AST]) -> None:
        self.bound: dict[str, str] = {}
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        # `import a.b` binds a
                        origin = alias.name if alias.asname else alias.name.partition(".")[0]
                        self.bound[alias.asname or origin] = origin
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    for alias in node.names:
                        self.bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"


def syntax(node: Any, names: Mapping[str, str]) -> str:
    """Return the syntax of a node as text that is the same under every Python version and formatting.

    Args:
        node: A node of the syntax tree, a list of nodes, or a constant.
        names: What stands for each imported name.
    """
    if isinstance(node, list):
        return "[" + ",".join(filter(None, (syntax(item, names) for item in node))) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return ""
    if isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node)):
        root, _, rest = dotted.partition(".")
        if dotted in names:
            return f"<{names[dotted]}>"
        if root in names:
            return f"<{names[root]}{'.' + rest if rest else ''}>"
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return f"Assign({syntax([node.target], names)},{syntax(node.value, names)})"
    if isinstance(node, ast.Assign):
        return f"Assign({syntax(node.targets, names)},{syntax(node.value, names)})"
    if isinstance(node, ast.If) and _dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return ""
    if (
        isinstance(node, ast.Call)
        and _dotted(node.func) in ("cast", "typing.cast")
        and len(node.args) == 2
        and not node.keywords
    ):
        return syntax(node.args[1], names)
    parts = []
    for field, value in ast.iter_fields(node):
        if field in SKIPPED or field == "annotation" or value is None or value == []:
            continue
        if field == "body" and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        parts.append(f"{field}={syntax(value, names)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


# the library


@lru_cache(maxsize=2048)  # one command judges the whole library several times
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _defined(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets):
        return ",".join(target.id for target in statement.targets if isinstance(target, ast.Name))
    return ""


def _statements(tree: ast.Module) -> list[ast.stmt]:
    documented = ast.get_docstring(tree, clean=False) is not None
    return [
        node
        for node in tree.body[documented:]
        if not isinstance(node, ast.Import | ast.ImportFrom) and not _of_the_frame(node)
    ]


def _of_the_frame(node: ast.stmt) -> bool:
    # `__all__ = ...`, `__getattr__, __dir__, __all__ = lazy.attach_stub(...)`: where names are found, not what they do
    targets = node.targets if isinstance(node, ast.Assign) else []
    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return bool(names) and all(name.id.startswith("__") for name in names)


def _sources(library: Path) -> dict[str, str]:
    found = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def _public(library: Path) -> dict[str, str]:
    # `faultlines.attacks.PGD` is `faultlines.attacks.pgd.PGD`: the lazy rooms say so in their stubs
    found = {}
    for stub in sorted(library.rglob("__init__.pyi")):
        room = ".".join(stub.parent.relative_to(library.parent).parts)
        for node in ast.walk(_parsed(stub.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = room.rsplit(".", node.level - 1)[0] if node.level > 1 else room
                for alias in node.names:
                    name = ".".join(filter(None, (module, node.module, alias.name)))
                    found[f"{room}.{alias.asname or alias.name}"] = name
    return found


def _data(library: Path) -> dict[str, str]:
    # hashes of the data files of the package, by folder and name: what `Path(__file__).with_name("x.json")` leads to
    return {
        f"{'.'.join(path.relative_to(library.parent).parts[:-1])}/{path.name}": digest(
            path.read_text("utf-8")
        )
        for path in sorted(library.rglob("*.json"))
    }


def library_code(library: Path) -> Modules:
    """Return the hashes of every module of the package in folder `library`.

    Args:
        library: The folder of the package itself.
    """
    return _library_code(*(tuple(found(library).items()) for found in (_sources, _public, _data)))


Texts = tuple[tuple[str, str], ...]


@lru_cache(maxsize=4)  # one command, and every test, asks again
def _library_code(files: Texts, stubs: Texts, data: Texts) -> Modules:
    trees = {module: _parsed(source) for module, source in files}
    public, beside = dict(stubs), dict(data)
    bound = {
        module: Names([tree]).bound
        | {name: f"{module}.{name}" for s in _statements(tree) if (name := _defined(s))}
        for module, tree in trees.items()
    }

    def origin_of(origin: str) -> str:
        for _ in range(5):  # a name may be handed on
            module, _, name = origin.rpartition(".")
            further = public.get(origin) or bound.get(module, {}).get(name)
            if not further or further == origin:
                break
            origin = further
        return origin

    def names_of(module: str, statement: ast.stmt, meaning: Callable[[str], str]) -> dict[str, str]:
        found = {}
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node)):
                root, _, rest = dotted.partition(".")
                if root not in bound[module]:
                    continue
                found[root] = meaning(origin_of(bound[module][root]))
                origin = origin_of(f"{bound[module][root]}.{rest}" if rest else bound[module][root])
                if rest and origin in plain:  # an attribute of one of our modules
                    found[dotted] = meaning(origin)
        return found

    places = {place.partition("/")[0] for place in beside}

    def read(module: str, statement: ast.stmt) -> str:
        # what is in the data files that a statement names
        room = module.rpartition(".")[0]
        if room not in places:
            return ""
        return "".join(
            beside.get(f"{room}/{node.value}", "")
            for node in ast.walk(statement)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )

    def name_alone(origin: str) -> str:
        return origin.rpartition(".")[2] if origin.partition(".")[0] == PACKAGE else origin

    # each definition by itself first, so that those that use it can tell it by content
    plain = {
        f"{m}.{name}": "" for m, tree in trees.items() for s in _statements(tree) if (name := _defined(s))
    }
    for module, tree in trees.items():
        for statement in _statements(tree):
            if name := _defined(statement):
                names = names_of(module, statement, name_alone)
                plain[f"{module}.{name}"] = digest(syntax(statement, names) + read(module, statement))

    def content(origin: str) -> str:
        return f"{name_alone(origin)} {plain[origin]}" if origin in plain else origin

    found: Modules = {}
    for module, tree in trees.items():
        hashes = found.setdefault(module, {})
        for statement in _statements(tree):
            text = syntax(statement, names_of(module, statement, content)) + read(module, statement)
            code = digest(text)[:10]
            hashes[_defined(statement) or f"~{code}"] = code
    return found


def changed(recorded: Modules, current: Modules) -> list[str]:
    """Return the definitions that are recorded and are not, or not any more, in the library, in words.

    A definition that its module has no more may stand in any other; one that its module has must be the same there.

    Example:
        >>> now = {"a": {"f": "1"}, "b": {"g": "2"}}
        >>> changed({"a": {"f": "1"}, "old": {"g": "2"}}, now), changed({"a": {"f": "0", "g": "3"}}, now)
        ([], ['a.f', 'a.g (gone)'])
    """
    everywhere = {(name, code) for hashes in current.values() for name, code in hashes.items()}
    found = []
    for module, hashes in recorded.items():
        now = current.get(module, {})
        for name, code in hashes.items():
            if name in now:
                if now[name] != code:
                    found.append(f"{module}.{name}")
            elif (name, code) not in everywhere:
                found.append(f"{module}{'' if name.startswith('~') else '.' + name} (gone)")
    return found


def library_hash(modules: Modules) -> str:
    """Return one hash of all modules."""
    return digest(json.dumps(modules, sort_keys=True))


# cells


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def declares_parameters(source: str) -> bool:
    """Whether a cell is a parameters cell: typed names with literals, and nothing else."""
    tree = _parse(source)
    return bool(tree and tree.body) and all(isinstance(node, ast.AnnAssign) for node in tree.body)  # type: ignore[union-attr]


def injected_values(source: str) -> dict[str, Any] | None:
    r"""Return what a cell that papermill injected sets, or None where the cell is another.

    Example:
        >>> injected_values("# Parameters\nn = 3\n"), injected_values("n = 3")
        ({'n': 3}, None)
    """
    tree = _parse(source) if source.startswith("# Parameters") else None
    if tree is None:
        return None
    values = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            return None
        try:
            values[node.targets[0].id] = ast.literal_eval(node.value)
        except ValueError:  # float("nan") and its like
            values[node.targets[0].id] = ast.unparse(node.value)
    return values


def said_text(source: str) -> str | None:
    """Return the text of a cell that does nothing but `say` one, or None where the cell is another."""
    tree = _parse(source)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    call = tree.body[0].value
    if not (
        isinstance(call, ast.Call) and _dotted(call.func).rpartition(".")[2] == "say" and len(call.args) == 1
    ):
        return None
    text = call.args[0]
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None


def _finds_the_library(node: ast.stmt) -> bool:
    # the first cell's `try: from faultlines import notebook`, whose other branch holds the project's address
    return isinstance(node, ast.Try) and all(
        isinstance(inner, ast.ImportFrom | ast.Import) for inner in node.body
    )


def cells_hash(sources: Iterable[str]) -> str:
    r"""Return the content hash of a chapter's code.

    Prose that is said, parameters (declared and injected) and the cell that finds the library count for nothing.

    Example:
        >>> cells_hash(["from a import b  # c", "x=b( 1 )"]) == cells_hash(["from a import b as c\nx: int = c(1)"])
        True
    """
    kept = [
        source
        for source in sources
        if said_text(source) is None and not declares_parameters(source) and injected_values(source) is None
    ]
    trees = [_parse(source) for source in kept]
    bound = Names([tree for tree in trees if tree is not None]).bound
    # where in the library a name stands is the library's affair
    names = {
        name: origin.rpartition(".")[2] if origin.partition(".")[0] == PACKAGE else origin
        for name, origin in bound.items()
    }
    lines = []
    for source, tree in zip(kept, trees, strict=True):
        if tree is None:
            lines.append(source)
            continue
        explained = len(tree.body) > 1 and ast.get_docstring(tree, clean=False) is not None
        lines += [syntax(node, names) for node in tree.body[explained:] if not _finds_the_library(node)]
    return digest("\n".join(filter(None, lines)))
