"""One document: its Markdown, its sections with their anchors, and what it links to.

Anchors are those that GitHub gives, so that a link works there and here: lower case, without signs, `-` for a space,
and -1, -2 for a second and third of the same name. Cost: the text is parsed once. Not here: HTML (`build`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pages.notebook import as_markdown, read_notebook

PARSER = MarkdownIt("commonmark").enable("table")
NOTEBOOK = ".ipynb"


@dataclass(frozen=True)
class Heading:
    """`index`: where its tokens begin."""

    level: int
    text: str
    anchor: str
    index: int


@dataclass(frozen=True)
class Document:
    """`name`: where it is below the root, such as docs/adapt.md. A notebook is one too."""

    name: str
    text: str

    @cached_property
    def tokens(self) -> list[Token]:
        return PARSER.parse(self.text)

    @cached_property
    def headings(self) -> list[Heading]:
        """Every heading, in order."""
        found, seen = list[Heading](), dict[str, int]()
        for i, token in enumerate(self.tokens):
            if token.type == "heading_open":
                text = plain(self.tokens[i + 1].children or [])
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                number = seen.get(slug, 0)
                seen[slug] = number + 1
                found.append(Heading(int(token.tag[1]), text, f"{slug}-{number}" if number else slug, i))
        return found

    @property
    def title(self) -> str:
        return next((one.text for one in self.headings if one.level == 1), self.name)

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead, as written."""
        return [target for _, target in self.linked(self.tokens)]

    def linked(self, tokens: Sequence[Token]) -> Iterator[tuple[str, str]]:
        """The links in these tokens: (text, target). A picture's text is its description."""
        for token in tokens:
            inner = token.children or []
            for i, one in enumerate(inner):
                if one.type == "link_open":
                    end = next(j for j in range(i, len(inner)) if inner[j].type == "link_close")
                    yield plain(inner[i:end]), str(one.attrs["href"])
                elif one.type == "image":
                    yield one.content, str(one.attrs["src"])


def plain(tokens: Sequence[Token]) -> str:
    """The words of inline tokens."""
    return "".join(" " if one.type == "softbreak" else one.content for one in tokens)


def is_elsewhere(target: str) -> bool:
    """Whether a link leaves the documents."""
    return re.match(r"[a-z]+:", target) is not None


def read_documents(root: Path) -> list[Document]:
    """README, the documents and notebooks that it links in that order, and the other documents by name."""
    readme = Document("README.md", (root / "README.md").read_text(encoding="utf-8"))
    there = ["CONTRIBUTING.md", "CHANGELOG.md", *sorted(f"docs/{file.name}" for file in (root / "docs").glob("*.md"))]
    linked = dict.fromkeys(one.partition("#")[0] for one in readme.links)
    names = dict.fromkeys([*(one for one in linked if one in there or one.endswith(NOTEBOOK)), *there])
    return [readme, *(Document(name, _read(root / name)) for name in names)]


def _read(file: Path) -> str:
    return as_markdown(read_notebook(file)) if file.suffix == NOTEBOOK else file.read_text(encoding="utf-8")


def broken_links(documents: Sequence[Document], root: Path) -> list[str]:
    """A sentence for each link that leads to no file below `root`, or to no heading of a document."""
    known = {(root / one.name).resolve(): one for one in documents}
    told = []
    for document in documents:
        for target in document.links:
            if is_elsewhere(target):
                continue
            path, _, anchor = target.partition("#")
            file = ((root / document.name).parent / path).resolve() if path else (root / document.name).resolve()
            if not file.exists() or not file.is_relative_to(root.resolve()):
                told.append(f"{document.name} links to {target}, and there is no such file.")
            elif anchor and file not in known:
                told.append(f"{document.name} links to {target}, and that is no document with headings.")
            elif anchor and anchor not in {one.anchor for one in known[file].headings}:
                told.append(f"{document.name} links to {target}, and {known[file].name} has no such heading.")
    return told
