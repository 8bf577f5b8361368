"""Text that is safe to show, whatever a name, a path or a file puts into it.

    line("a\\x1b[2Jb\\nc")        a\\x1b[2Jb\\nc in letters: nothing in it moves a cursor, turns a line or begins one
    message("a: wrong.\\nDo b.")  the same with its line breaks kept, and at most 1,500 characters long
    value([1, [2, [3, [4]]]])    a value as one writes it, with dots for most of a huge one
    marked("<img>")              what Markdown shows as it is, in a table too
    cell("=1+1")                 '=1+1, which no spreadsheet takes for a formula

Escaped is what `str.isprintable` refuses: control characters, halves of surrogate pairs, separators of lines, marks
that turn the direction of reading. Joiners of letters stay: several languages need them. Cost: O(length). Not here:
HTML, which `html.escape` is for; where it is shown.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

LONGEST = 1500  # characters of one message
_JOINERS = "\u200c\u200d"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell of a spreadsheet begins with to be computed
_NUMBER = re.compile(r"[+-]?[\d.,]+([eE][+-]?\d+)?[\d.,\s%±()\[\]-]*|[+-]")


def line(text: str) -> str:
    """The text in one line, with everything that is not to be printed as an escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _JOINERS else repr(one)[1:-1] for one in text)


def message(text: str) -> str:
    """The text with its line breaks, at most `LONGEST` characters of it: its beginning and its end."""
    return bounded("\n".join(map(line, text.split("\n"))) if not text.isprintable() else text)


def bounded(text: str, most: int = LONGEST) -> str:
    """At most `most` characters of the text: its beginning and its end."""
    if len(text) <= most:
        return text
    gap = f" [... {len(text) - most:,} characters more ...] "
    end = most * 3 // 10  # where messages say what to do
    return text[: most - end - len(gap)] + gap + text[-end:]


def value(given: Any) -> str:
    """A value as one writes it in Python, in few characters: what a file holds may be huge, or nested deeply."""
    return _short.repr(given)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 3, 4, 4, 4
        self.maxstring = self.maxlong = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"<a whole number of {x.bit_length():,} bits>"


_short = _Short()


def marked(text: str) -> str:
    """Plain text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|~#&])", r"\\\1", " ".join(line(part) for part in text.split()))


def cell(text: str) -> str:
    """The text as a cell of a CSV file, which a spreadsheet shows and never computes."""
    plain = line(text)
    return f"'{plain}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(plain) else plain
