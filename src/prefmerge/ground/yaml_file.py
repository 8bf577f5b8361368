"""What people write in YAML: one mapping in a file, and what its parts have in common.

Cost: one small file. Not here: errors of its keys (`checked`); recipes of a merge, whose messages have line numbers
(`merging.recipe_file`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from prefmerge import shown
from prefmerge.errors import ConfigError
from prefmerge.ground.disk import read_text_file


class Section(BaseModel):
    """A part of a configuration: no unknown key, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


MOST = 1 << 19  # bytes; a parser in Python takes seconds for as much
DEEPEST = 64  # levels of lists and mappings
LARGEST = 100_000  # values, counted wherever an alias repeats them
_TWO_READINGS = re.compile(r"[-+]?0[0-7_]*[0-7][0-7_]*|.*:.*")  # 010 is 8 and 1:30 is 90, says YAML


class NotYaml(ValueError):
    """A text that is no YAML, or more than a person writes: what is wrong with it, and in which line."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


def composed(file: Path) -> tuple[Any, Any]:
    """A loader and the root node of the YAML in a file, None where there is nothing in it. Raises OSError, NotYaml."""
    return _composed(file, lambda loader: loader.get_single_node())


def composed_documents(file: Path) -> tuple[Any, list[Any]]:
    """A loader and the root nodes of the documents in a file, without empty ones. Raises OSError, NotYaml."""

    def nodes(loader: Any) -> list[Any]:
        several: list[Any] = []
        while loader.check_node():
            several.append(loader.get_node())
        return [node for node in several if not (node.id == "scalar" and node.tag.endswith(":null"))]

    return _composed(file, nodes)


def _composed(file: Path, nodes: Callable[[Any], Any]) -> tuple[Any, Any]:
    import yaml

    try:
        loader = _loader()(read_text_file(file, MOST).decode("utf-8-sig"))
        return loader, nodes(loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be parsed"
        raise NotYaml(str(problem), mark.line + 1 if mark else None) from error
    except UnicodeDecodeError as error:
        raise NotYaml("it is no UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:  # characters that no YAML has
        raise NotYaml(str(error)) from error


def front_matter(file: Path) -> dict[str, Any]:
    """The mapping that a Markdown file begins with, between two `---`; empty where there is none that can be read."""
    import yaml

    try:
        text = read_text_file(file, MOST).decode("utf-8-sig")
        opening, _, rest = text.partition("\n")
        inside, closing, _ = rest.partition("\n---")
        content = _loader()(inside).get_single_data() if opening.rstrip() == "---" and closing else None
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def merged_keys(loader: Any, node: Any) -> Any:
    """The mapping node with the keys that `<<` takes from others. Raises NotYaml."""
    import yaml

    try:
        loader.flatten_mapping(node)
    except yaml.MarkedYAMLError as error:
        raise NotYaml(str(error.problem)) from error
    return node


@cache
def _loader() -> Any:
    import yaml

    class Bounded(yaml.SafeLoader):
        """Refuses what is nested deeply, what holds itself and what aliases make huge, before anybody walks it; then a
        key that is there twice, and numbers that a person reads in another way.
        """

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.level, self.sizes = 0, dict[int, int]()

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.level += 1
            if self.level > DEEPEST:
                self._refuse("it is nested too deeply", self.peek_event())
            again = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            self.level -= 1
            if isinstance(node, yaml.CollectionNode) and id(node) not in self.sizes:
                if again:
                    self._refuse("it holds itself", node)
                parts = [one for part in node.value for one in (part if isinstance(part, tuple) else (part,))]
                self.sizes[id(node)] = 1 + sum(self.sizes.get(id(one), 1) for one in parts)
                if self.sizes[id(node)] > LARGEST:
                    self._refuse(f"it has more than {LARGEST:,} values", node)
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = set[str]()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        self._refuse(f"the key {shown.value(key.value)} is there twice", key)
                    keys.add(key.value)
            return super().construct_mapping(node, deep)

        def construct_yaml_int(self, node: Any) -> Any:
            if isinstance(node, yaml.ScalarNode) and _TWO_READINGS.fullmatch(node.value):
                self._refuse_reading(node, super().construct_yaml_int(node))
            return super().construct_yaml_int(node)

        def construct_yaml_float(self, node: Any) -> Any:
            if isinstance(node, yaml.ScalarNode) and ":" in node.value:
                self._refuse_reading(node, super().construct_yaml_float(node))
            return super().construct_yaml_float(node)

        def _refuse_reading(self, node: Any, read: Any) -> NoReturn:
            self._refuse(
                f"{shown.value(node.value)} is {read} in YAML; write that, or put what you mean otherwise, without a 0 "
                "in front or a colon",
                node,
            )

        def _refuse(self, problem: str, where: Any) -> NoReturn:
            raise yaml.MarkedYAMLError(None, None, problem, where.start_mark)

    Bounded.add_constructor("tag:yaml.org,2002:int", Bounded.construct_yaml_int)
    Bounded.add_constructor("tag:yaml.org,2002:float", Bounded.construct_yaml_float)
    return Bounded


def read_mapping(file: Path, which: str, keys: str) -> dict[str, Any]:
    """The mapping in a YAML file. `which` says what file to give, `keys` what it holds at least. Raises ConfigError."""
    import yaml

    try:
        loader, root = composed(file)
        content = None if root is None else loader.construct_document(root)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file. {which}") from None
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:  # ValueError, KeyError: !!int or !!bool of another
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mapping with at least {keys}, found {type(content).__name__}.")
    return content
