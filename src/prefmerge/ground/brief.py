"""How a value with many parts shows itself in a notebook or a debugger: its fields, each cut to a few words.

    class Receipt:
        __repr__ = brief        # a dataclass keeps it

Cost: the text of a few parts of each field. Not here: what is printed for people (`cli.show`).
"""

from __future__ import annotations

import reprlib
from dataclasses import fields, is_dataclass
from typing import Any

_FIELD = 90  # characters


class _Words(reprlib.Repr):
    """A few parts of each container; of a dataclass in a field its name alone, of an array its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 2, 3, 4, 4
        self.maxstring = self.maxother = 60

    def repr_instance(self, x: Any, level: int) -> str:
        if is_dataclass(x):
            return f"{type(x).__name__}(…)"
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            return f"{type(x).__name__}{tuple(x.shape)}"
        return super().repr_instance(x, level)


_WORDS = _Words()


def brief(self: Any) -> str:
    """The `__repr__` of a dataclass, short whatever it holds."""
    parts = []
    for field in fields(self):
        if field.repr:
            text = _WORDS.repr(getattr(self, field.name, None))
            parts.append(f"{field.name}={text if len(text) <= _FIELD else f'{text[:_FIELD]}…'}")
    return f"{type(self).__name__}({', '.join(parts)})"
