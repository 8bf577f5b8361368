"""A table whose numbers are text already: Markdown, CSV and HTML say the same.

The first `words` columns are words and stand left, the others are numbers and stand right. Cost: O(values). Not here:
which tables an experiment has (`tables`).
"""

from __future__ import annotations

import csv
import html
import io
from dataclasses import dataclass

from prefmerge.shown import cell, marked

HINT = "Wider than the window? It scrolls sideways."
NARROW = 6  # columns that any window but a phone's can show

LONG = 45  # characters of a value that may be folded


@dataclass(frozen=True)
class Value:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """`name` is a file's stem. The first `words` columns are words, the others numbers."""

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    words: int = 1

    def markdown(self) -> str:
        """A table of GitHub's Markdown, with its caption above and its notes below."""
        lines = [
            f"**{marked(self.caption)}**",
            "",
            "| " + " | ".join(map(marked, self.header)) + " |",
            "|" + "|".join(" --- " if i < self.words else " ---: " for i in range(len(self.header))) + "|",
        ]
        for row in self.rows:
            texts = [f"**{marked(value.text)}**" if value.bold else marked(value.text) for value in row]
            lines.append("| " + " | ".join(texts) + " |")
        return "\n".join([*lines, "", *(f"- {marked(note)}" for note in self.notes)]).rstrip() + "\n"

    def csv(self) -> str:
        """Header and rows as they are printed; no caption, no notes."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(cell, self.header))
        writer.writerows([cell(value.text) for value in row] for row in self.rows)
        return file.getvalue()

    def html(self) -> str:
        """A `table` element in a box that scrolls, followed by its notes; every text escaped."""
        parts = [f'<div class="scroll" tabindex="0"><table id="{html.escape(self.name)}">']
        parts.append(f"<caption>{html.escape(self.caption)}</caption>")
        titles = "".join(
            f'<th scope="col"{_align(i < self.words)}>{html.escape(text)}</th>' for i, text in enumerate(self.header)
        )
        parts.append(f"<thead><tr>{titles}</tr></thead><tbody>")
        for row in self.rows:
            values = []
            for i, value in enumerate(row):
                text = html.escape(value.text)
                text = f"<strong>{text}</strong>" if value.bold else text
                kind = _align(i < self.words, len(value.text) > LONG)
                values.append(f'<th scope="row"{kind}>{text}</th>' if i == 0 else f"<td{kind}>{text}</td>")
            parts.append(f"<tr>{''.join(values)}</tr>")
        parts.append("</tbody></table></div>")
        if len(self.header) > NARROW:
            parts.append(f'<p class="hint">{HINT}</p>')
        if self.notes:
            parts.append('<ul class="notes">' + "".join(f"<li>{html.escape(n)}</li>" for n in self.notes) + "</ul>")
        return "\n".join(parts)


def _align(words: bool, long: bool = False) -> str:
    return f' class="w{" long" * long}"' if words else ""
