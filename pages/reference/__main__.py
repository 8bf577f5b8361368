"""Writes the pages of the reference into docs/."""

from pathlib import Path

from pages.reference import pages

DOCS = Path(__file__).parents[2] / "docs"

for name, text in pages().items():
    (DOCS / name).write_text(text, encoding="utf-8")
