"""What a report is made of: paragraphs, tables that scroll, facts, lists, code. Each returns HTML, every text escaped.

Not here: pictures (`charts`), the page (`page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefmerge.report.markup import Html, name, preformatted, tag, together

HINT = "Wider than the window? It scrolls sideways."
NARROW, FEW = 6, 9  # columns that any window but a phone's can show, and that a large one can
MANY, VAST = 12, 24  # columns that paper shows in small letters, and across
LONG = 45  # characters of a value that may be folded


@dataclass(frozen=True)
class PageSection:
    """A heading and what stands below it."""

    title: str
    parts: tuple[Html, ...]

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower()).strip("-")


def section(title: str, *parts: Html) -> PageSection:
    """What is empty is left out."""
    return PageSection(title, tuple(part for part in parts if part))


def paragraph(*inside: object, soft: bool = False) -> Html:
    return tag("p", *inside, class_="soft" if soft else None)


def paragraphs(texts: Iterable[str]) -> Html:
    return together(*map(paragraph, texts))


def listing(texts: Iterable[object], kind: str | None = None) -> Html:
    """A list; nothing where there is nothing to list."""
    items = [tag("li", text) for text in texts]
    return tag("ul", *items, class_=kind) if items else Html()


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Words and what they are, one below the other."""
    return tag("dl", *(tag("div", tag("dt", word), tag("dd", value)) for word, value in pairs), class_="facts")


def code(text: str) -> Html:
    """Lines to copy."""
    return tag("pre", preformatted(text), tabindex="0")


def strong(text: object) -> Html:
    return tag("strong", text)


def details(summary: str, *inside: object) -> Html:
    """What is shown when it is asked for, and on paper."""
    return tag("details", tag("summary", summary), *inside)


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: int = 1,
    notes: Sequence[str] = (),
    ours: int | None = None,
    id: str | None = None,
) -> Html:
    """The first `words` columns are words and stand left, the others are numbers and stand right. `ours`: the row that
    stands out.
    """
    titles = [tag("th", text, scope="col", class_=_aligned(i < words)) for i, text in enumerate(header)]
    lines: list[Html] = []
    for r, row in enumerate(rows):
        cells: list[Html] = []
        for i, value in enumerate(row):
            aligned = _aligned(i < words, long=len(str(value)) > LONG and not isinstance(value, Html))
            shown = name(value) if i < words and isinstance(value, str) and not isinstance(value, Html) else value
            cells.append(tag("th", shown, scope="row", class_=aligned) if i == 0 else tag("td", shown, class_=aligned))
        lines.append(tag("tr", *cells, class_="ours" if r == ours else None))
    held = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", tag("tr", *titles)), tag("tbody", *lines), id=id
    )
    size = " many vast" if len(header) > VAST else " many" if len(header) > MANY else ""
    return together(
        tag("div", held, class_=f"scroll{size}", tabindex="0", role="region", aria_label=caption),
        tag("p", HINT, class_="hint few" if len(header) <= FEW else "hint") if len(header) > NARROW else Html(),
        listing(notes, "notes"),
    )


def _aligned(words: bool, long: bool = False) -> str | None:
    return f"w{' long' * long}" if words else "long" if long else None
