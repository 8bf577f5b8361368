"""Drawings as SVG text that can be read in light and dark: shapes with classes, whose colours the scheme decides.

    Drawing(600, 200, "Title", "What it shows").text(10, 20, "words").save(file)

Not here: what is drawn (`drawings`).
"""

from __future__ import annotations

from html import escape
from pathlib import Path

# Of Okabe and Ito, which readers with any kind of colour vision tell apart; lighter on a dark ground.
STYLE = """\
.ground { fill: #ffffff; } text { fill: #1c2128; font: 15px system-ui, sans-serif; }
.soft { fill: #57606a; } .small { font-size: 13px; } .strong { font-weight: 700; } .middle { text-anchor: middle; }
.end { text-anchor: end; } .cell { fill: #f0f2f5; } .line { stroke: #8a939d; }
.dash { stroke-dasharray: 6 4; stroke-width: 2; }
.task1 { fill: #9fd0f0; } .task2 { fill: #f6cf7a; } .task3 { fill: #a9dcb9; } .task4 { fill: #e3b7d2; }
.turned { fill: none; stroke: #57606a; stroke-dasharray: 3 3; } .chance { fill: #c4c9cf; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14171b; } text { fill: #e3e7ec; } .soft { fill: #a2abb5; } .cell { fill: #23292f; }
  .line { stroke: #7a848f; } .task1 { fill: #1d5f8a; } .task2 { fill: #8a6410; } .task3 { fill: #1f6b4a; }
  .task4 { fill: #7a3f63; } .turned { stroke: #a2abb5; } .chance { fill: #59626c; }
}"""


class Drawing:
    """A picture of so many units; y grows downwards. Classes are those of STYLE."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width, self.height, self.title, self.description = width, height, title, description
        self.parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, classes: str = "cell") -> None:
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" class="{classes}"/>')

    def text(self, x: float, y: float, words: str, classes: str = "") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(words)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str = "line") -> None:
        self.parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{classes}"/>')

    def dot(self, x: float, y: float, radius: float, classes: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{classes}"/>')

    def __str__(self) -> str:
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-labelledby="title words">'
        )
        head = [
            opening,
            f'<title id="title">{escape(self.title)}</title>',
            f'<desc id="words">{escape(self.description)}</desc>',
            f"<style>\n{STYLE}\n</style>",
            f'<rect width="{self.width}" height="{self.height}" class="ground"/>',
        ]
        return "\n".join([*head, *self.parts, "</svg>"]) + "\n"

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(self), encoding="utf-8")
