"""What each file of a package imports from the package, read from its source. No file is opened and nothing is run.

    imports({"pack/__init__.py": "", "pack/low.py": "from pack import high", "pack/high.py": ""})
    -> [Import(file="pack/low.py", line=1, source="pack.low", target="pack.high")]

An import counts wherever it stands: at the top, in a function, under TYPE_CHECKING. The target is the module that is
meant: `from a.b import c` is a.b.c if that is a module, else the home of c if a.b exports it lazily, else a.b. Python
also runs the files of the packages around it; they count only when a name is taken from them. The same holds for names
taken by a dot, `a.b.c` after `import a`. Of `import_module`, a written name counts as it is, an f-string as every
module that fits, and with anything else every string in the file that names a module.

Not here: names made at run time from parts, `getattr` on a module, and programs started by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True, order=True)
class Import:
    file: str
    line: int
    source: str
    target: str


@dataclass
class _Module:
    name: str
    file: str
    tree: ast.Module
    own: set[str] = field(default_factory=set)  # names that are its own, also where a submodule is called the same
    lazy: dict[str, str] = field(default_factory=dict)  # names that `__getattr__` fetches, and the module of each

    @property
    def package(self) -> str:
        return self.name if self.file.endswith("__init__.py") else self.name.rpartition(".")[0]


def module_of(file: str) -> str:
    parts = PurePosixPath(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(sources: Mapping[str, str]) -> list[Import]:
    """Every import of one module of `sources` (file name -> text) by another, sorted, each once a line."""
    modules = {module_of(file): _Module(module_of(file), file, ast.parse(text)) for file, text in sources.items()}
    # A folder without an __init__.py is a package too.
    known = set(modules) | {str(parent).replace("/", ".") for file in sources for parent in PurePosixPath(file).parents}
    for module in modules.values():
        module.lazy = _lazy(module, known)
        module.own = _own(module)
    return sorted(
        {
            Import(module.file, line, module.name, target)
            for module in modules.values()
            for line, target in _targets(module, modules, known)
            if target != module.name and target in known
        }
    )


def upward(found: Iterable[Import], layers: Sequence[str]) -> list[Import]:
    """The imports of a module in a higher layer: layers[i] is `package.layers[i]` and all below it.

    The package's own __init__.py lies as high as the highest module that it exports."""
    every = list(found)
    facade = max((_layer(each.target, layers) for each in every if "." not in each.source), default=-1)

    def height(module: str) -> int:
        return _layer(module, layers) if "." in module else facade

    return [each for each in every if height(each.target) > height(each.source)]


def _layer(module: str, layers: Sequence[str]) -> int:
    name = module.split(".")[1] if "." in module else ""
    return layers.index(name) if name in layers else -1


def circles(found: Iterable[Import]) -> list[tuple[str, ...]]:
    """A shortest circle through each group of modules that reach one another; each begins at its first name."""
    graph: dict[str, set[str]] = {}
    for each in found:
        graph.setdefault(each.source, set()).add(each.target)
    ways = {start: _reach(graph, start) for start in sorted(graph)}
    shortest = {start: _way_back(ways[start], start) for start in ways if start in ways[start]}
    result: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for start in sorted(shortest, key=lambda name: (len(shortest[name]), name)):
        if start not in seen:
            result.append(shortest[start])
            seen |= {name for name in shortest if name in ways[start] and start in ways[name]}
    return sorted(result)


def _reach(graph: Mapping[str, set[str]], start: str) -> dict[str, str]:
    """The modules that `start` leads to, each with the one before it on a shortest way."""
    before: dict[str, str] = {}
    row = [start]
    while row:
        following = []
        for name in row:
            for target in sorted(graph.get(name, ())):
                if target not in before:
                    before[target] = name
                    following.append(target)
        row = following
    return before


def _way_back(before: Mapping[str, str], start: str) -> tuple[str, ...]:
    circle = [before[start]]
    while circle[-1] != start:
        circle.append(before[circle[-1]])
    return tuple(reversed(circle))


def _from(node: ast.ImportFrom, module: _Module) -> str:
    """The module after `from`, with the dots of a relative import resolved."""
    return _absolute("." * node.level + (node.module or ""), module.package)


def _absolute(name: str, package: str) -> str:
    plain = name.lstrip(".")
    up = len(name) - len(plain) - 1
    if up < 0:
        return plain
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - up], *([plain] if plain else [])])


def _lazy(module: _Module, known: set[str]) -> dict[str, str]:
    """The names that a module with `__getattr__` exports without holding them, and where each comes from.

    They are what it imports there and under TYPE_CHECKING, and what stands in a table of names and modules."""
    getter = [node for node in module.tree.body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
    if not getter:
        return {}
    found: dict[str, str] = {}
    for block in [*getter, *(node for node in module.tree.body if _type_checking(node))]:
        for node in ast.walk(block):
            if isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: _from(node, module) for alias in node.names}
    for node in module.tree.body:
        table = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(table, ast.Dict):
            for key, home in zip(table.keys, table.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(home, ast.Constant):
                    names = (str(home.value), f"{module.name}.{home.value}")
                    found |= {str(key.value): name for name in names if name in known}
    return found


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _own(module: _Module) -> set[str]:
    """The names that importing the module binds, but for its submodules under their own names."""
    found: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and _from(node, module) != module.name:
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _home(start: str, names: Iterable[str], modules: Mapping[str, _Module], known: set[str]) -> str:
    """The module that `start.name.name...` is, or that holds it."""
    for name in names:
        module = modules.get(start)
        if f"{start}.{name}" in known and not (module and name in module.own):
            start = f"{start}.{name}"
        else:
            return module.lazy.get(name, start) if module else start
    return start


def _targets(module: _Module, modules: Mapping[str, _Module], known: set[str]) -> Iterator[tuple[int, str]]:
    """Each module that this one imports or takes a name from, with the line; others than those of the package too."""
    nodes = list(ast.walk(module.tree))
    bound: dict[str, str] = {}  # this file's names of modules
    importers = {"__import__"}  # this file's names of functions that import
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
                first = alias.name.partition(".")[0]
                bound[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            start = _from(node, module)
            for alias in node.names:
                whole = f"{start}.{alias.name}"
                if alias.name == "*":
                    yield node.lineno, start
                    yield from (
                        (node.lineno, home) for home in (modules[start].lazy if start in modules else {}).values()
                    )
                else:
                    yield node.lineno, _home(start, [alias.name], modules, known)
                if whole in known:
                    bound[alias.asname or alias.name] = whole
                elif whole == "importlib.import_module":
                    importers.add(alias.asname or alias.name)
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            root, names = _dotted(node)
            if root in bound:
                yield node.lineno, _home(bound[root], names, modules, known)
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in importers or (isinstance(node.func, ast.Attribute) and node.func.attr == "import_module"):
                yield from ((node.lineno, target) for target in _called(node, module, nodes, known))
    yield from ((1, home) for home in module.lazy.values())  # however `__getattr__` spells them


def _dotted(node: ast.expr) -> tuple[str, list[str]]:
    """("a", ["b", "c"]) of `a.b.c`; ("", ...) of anything that does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return node.id if isinstance(node, ast.Name) else "", names


def _called(call: ast.Call, module: _Module, nodes: Iterable[ast.AST], known: set[str]) -> list[str]:
    """The modules that a call of `import_module` may load."""
    given = dict(zip(("name", "package"), call.args, strict=False))
    given |= {each.arg: each.value for each in call.keywords if each.arg}
    name, package = given.get("name"), given.get("package")
    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
    texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    if texts == [None]:
        return [node.value for node in nodes if isinstance(node, ast.Constant) and node.value in known]
    within = package.value if isinstance(package, ast.Constant) else module.package
    whole = _absolute("".join("*" if text is None else str(text) for text in texts), str(within))
    pattern = ".+".join(map(re.escape, whole.split("*")))
    return [each for each in known if re.fullmatch(pattern, each)]
