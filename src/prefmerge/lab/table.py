"""A table whose numbers are text already: Markdown, CSV and HTML say the same.

The first `words` columns are words and stand left, the others are numbers and stand right. Cost: O(values). Not here:
which tables an experiment has (`tables`).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from prefmerge.report.markup import Html
from prefmerge.report.parts import strong, table
from prefmerge.shown import cell, marked


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

    def html(self) -> Html:
        """A `table` element in a box that scrolls, followed by its notes; every text escaped."""
        rows = [[strong(value.text) if value.bold else value.text for value in row] for row in self.rows]
        return table(self.caption, self.header, rows, words=self.words, notes=self.notes, id=self.name)
