"""What every report must be: one page, balanced, without a script, and without anything that is loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = ("meta", "img")
FETCHING = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction")
FORBIDDEN = {"script", "link", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject", "animate"}


class Page(HTMLParser):
    """A page that is read as a browser reads it. `text`: what is shown, by tag of its nearest element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.pictures = 0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {name: value or "" for name, value in attrs}
        self.fetched += [found[name] for name in FETCHING if name in found]
        self.fetched += re.findall(r"url\([^)]*\)", found.get("style", ""))
        self.wrong += [f"{tag} {name}" for name in found if name.startswith("on")]
        self.ids += [found["id"]] if "id" in found else []
        self.named += found.get("aria-labelledby", "").split()
        if tag == "svg" and found.get("aria-hidden") != "true":
            self.pictures += 1
            if found.get("role") != "img" or "aria-labelledby" not in found:
                self.wrong.append("a picture without words")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> in {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        self.text.append((where, data))
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The first row of a table whose first cell is this."""
        return next(row for row in self.rows if row[:1] == [first])

    @property
    def shown(self) -> str:
        return " ".join(data for where, data in self.text if where != "style")


def lawful(source: str) -> Page:
    """The page, if it keeps the law of reports."""
    page = Page(source)
    assert page.open == []
    assert page.wrong == []
    assert not FORBIDDEN & set(page.tags), FORBIDDEN & set(page.tags)
    outside = [one for one in page.fetched if not one.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert {one.removeprefix("#") for one in page.fetched if one.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids)), page.ids
    assert set(page.named) <= set(page.ids)
    style = "".join(data for where, data in page.text if where == "style")
    assert "@import" not in style
    assert "url(" not in style
    assert source.startswith('<!doctype html>\n<html lang="en">')
    assert "default-src &#x27;none&#x27;" in source
    assert source.replace("\n", "").isprintable()
    return page
