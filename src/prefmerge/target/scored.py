"""What the result of `adapt` keeps of candidates that a command of the user scored: what its page and files show.

Cost: none. Not here: the scores and the choice (`by_command`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefmerge.merging.recipe import Recipe


@dataclass(frozen=True)
class ScoreTable:
    """Scores by one command at one budget. `rows`: (model, score in words); `chosen`: the place of the one chosen."""

    title: str
    rows: tuple[tuple[str, str], ...]
    chosen: int | None


class Scored(Protocol):
    """`recipe`: that of the chosen model, as it was scored."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def verdict(self) -> str:
        """What was chosen and why, in words."""
        ...

    @property
    def expected(self) -> str:
        """The score that is to be expected of it, in a sentence."""
        ...

    @property
    def doubt(self) -> str:
        """What the numbers do not say."""
        ...

    @property
    def tables(self) -> Sequence[ScoreTable]: ...

    def to_json(self) -> dict[str, Any]:
        """Without paths: the file may be published."""
        ...
