"""One class per word: no two public classes of the package have one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "prefmerge"
# Named twice still, until lab, data and target rename theirs.
YET = {"Cell", "Fingerprint", "Merges", "Method", "Output", "Scores", "Section", "Source", "Tasks"}


def homes() -> dict[str, list[str]]:
    """Public class -> the modules that define one of that name."""
    where: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(module)
    return where


def test_no_two_public_classes_have_one_name() -> None:
    twice = {name: modules for name, modules in homes().items() if len(modules) > 1 and name not in YET}
    assert not twice, "classes of one name: give the one of lesser use another"
