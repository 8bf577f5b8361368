"""HTML from text: what is not `Html` is escaped, so that no name can become markup.

    tag("p", "a < b", tag("b", name))      <p>a &lt; b<b>...</b></p>

Control characters and marks that turn the direction of reading are shown as escapes (`shown.line`); a text is cut in
its middle where it is longer than `LONGEST`. Cost: O(length). Not here: which tags (`parts`).
"""

from __future__ import annotations

from html import escape

from prefmerge.shown import bounded, line

LONGEST = 2000  # characters of one text; a name longer than that is nobody's
NAME = 120  # characters of a name in a table
EMPTY = frozenset({"meta", "rect", "circle", "img"})  # elements that have no end


class Html(str):
    """Text that is HTML already: made by `tag`, `escaped` and `together` alone."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """Any text as HTML in one line."""
    return text if isinstance(text, Html) else Html(escape(bounded(line(str(text)), LONGEST)))


def preformatted(text: str) -> Html:
    """A text with its line breaks, for `pre`. Nothing of it is cut: it is to be copied."""
    return Html("\n".join(escape(line(one)) for one in text.rstrip().split("\n")))


def name(text: str) -> Html:
    """A name, whose direction of writing changes nothing around it."""
    return tag("bdi", shortened(text, NAME))


def shortened(text: str, most: int) -> str:
    """A name in so many characters: its beginning and its end."""
    plain = line(text)
    if len(plain) <= most:
        return plain
    end = (most - 1) // 3
    return f"{plain[: most - 1 - end]}\N{HORIZONTAL ELLIPSIS}{plain[len(plain) - end :]}"


def tag(element: str, *inside: object, **attributes: object) -> Html:
    """An element. An attribute that is None or False is left out, one that is True has its name alone; `class_` is
    `class`, and `aria_label` is `aria-label`.
    """
    written = "".join(
        f" {_spelled(key)}" if value is True else f' {_spelled(key)}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in EMPTY:
        return Html(f"<{element}{written}/>" if element in ("rect", "circle") else f"<{element}{written}>")
    return Html(f"<{element}{written}>{together(*inside)}</{element}>")


def together(*parts: object) -> Html:
    """One after another."""
    return Html("".join(map(escaped, parts)))


def _spelled(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
