"""One class per word: no two public classes of the package have one name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "prefmerge"


def homes() -> dict[str, list[str]]:
    """Public class or alias of a type -> the modules that define one of that name."""
    where: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(module)
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z]\w*[a-z]\w*", target.id):
                where[target.id].append(module)
    return where


def test_no_two_public_classes_have_one_name() -> None:
    twice = {name: modules for name, modules in homes().items() if len(modules) > 1}
    assert not twice, "classes of one name: give the one of lesser use another"
