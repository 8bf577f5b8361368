"""The site: every link and anchor of the documents leads somewhere, and every page holds by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pages.site.build import BrokenDocuments, build, contents, groups_of
from pages.site.document import Document, broken_links, is_elsewhere, read_documents

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.loads, self.tags = list[str](), list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loads += [given[name] for name in ("src", "href") if name in given and tag != "a"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every page, by its name below the site."""
    out = tmp_path_factory.mktemp("built") / "site"
    files = build(out)
    assert files[0] == out / "index.html"
    assert all(file.is_file() for file in files)
    assert {file for file in out.rglob("*") if file.is_file()} == set(files)
    return {file.relative_to(out).as_posix(): Page(file.read_text()) for file in files if file.suffix == ".html"} | {
        file.relative_to(out).as_posix(): Page("") for file in files if file.suffix != ".html"
    }


def test_every_link_of_the_documents_leads_somewhere() -> None:
    assert broken_links(read_documents(ROOT), ROOT) == []


def resolved(name: str, target: str) -> str:
    """Where a link on the page `name` leads."""
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def inner_links(site: dict[str, Page]) -> Iterator[tuple[str, str, str]]:
    for name, page in site.items():
        for target in page.links + page.loads:
            if not is_elsewhere(target):
                path, _, anchor = target.partition("#")
                yield name, resolved(name, path) if path else name, anchor


def test_every_link_of_the_pages_leads_somewhere(site: dict[str, Page]) -> None:
    links = list(inner_links(site))
    assert len(links) > 1000
    assert [(name, path) for name, path, _ in links if path not in site] == []
    assert [(name, path, mark) for name, path, mark in links if mark and mark not in site[path].ids] == []


def test_a_page_needs_nobody_else(site: dict[str, Page]) -> None:
    for page in site.values():
        assert [one for one in page.loads if is_elsewhere(one) and not one.startswith("data:")] == []
    for name in ("style.css", "search.js"):
        text = (ROOT / "pages" / "site" / name).read_text()
        assert "://" not in text
        assert "@import" not in text


def test_a_page_has_its_parts_once(site: dict[str, Page]) -> None:
    pages = {name: page for name, page in site.items() if name.endswith(".html")}
    assert len(pages) == len(read_documents(ROOT))
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        assert [page.tags.count(tag) for tag in ("h1", "main", "header", "title")] == [1, 1, 1, 1], name
        assert {resolved(name, one.partition("#")[0]) for one in page.links if not is_elsewhere(one)} >= set(pages), (
            name
        )


def test_the_search_knows_every_section(tmp_path: Path, site: dict[str, Page]) -> None:
    build(tmp_path)
    text = (tmp_path / "search-index.js").read_text()
    rows = json.loads(text.removeprefix("const SECTIONS = ").rstrip(";\n"))
    assert all(anchor in site[page].ids for page, _, anchor, _, _ in rows)
    (found,) = [words for page, _, anchor, _, words in rows if (page, anchor) == ("docs/algorithm.html", "increments")]
    assert "The method increments is ours too" in found


def documents_of(**texts: str) -> list[Document]:
    return [Document(f"{name}.md", text) for name, text in texts.items()]


def test_what_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "picture.png").touch()
    right = "[](#a-b) [](a.md#a-b) ![](picture.png) [](https://x.y/z#w)"
    text = f"# A b\n\n{right}\n\n[](b.md) [](#a) ![](../c.png) [](picture.png#d)"
    assert broken_links(documents_of(a=text), tmp_path) == [
        "a.md links to b.md, and there is no such file.",
        "a.md links to #a, and a.md has no such heading.",
        "a.md links to ../c.png, and there is no such file.",
        "a.md links to picture.png#d, and that is no document with headings.",
    ]


def test_headings_have_the_anchors_that_github_gives() -> None:
    text = "# One `two`: three!\n\n```\n# no heading\n```\n\n## Again\n\n## Again\n\n### Über *a_b*\n"
    (document,) = documents_of(a=text)
    assert [one.anchor for one in document.headings] == ["one-two-three", "again", "again-1", "über-a_b"]
    assert document.title == "One two: three!"


def test_the_pages_are_in_the_groups_of_the_readme() -> None:
    lists = "First:\n\n- [a](a.md): words;\n  [b](docs/b.md)\n\nThen:\n\n- [a](a.md#c) [w](https://w)\n- [c](c.md)\n"
    text = f"# R\n\n[x](x.md)\n\n## Where to go next\n\n{lists}"
    documents = documents_of(README=text, a="# A", c="# C", d="# D")
    groups = [("First", [("a", "a.md"), ("b", "docs/b.md")]), ("Then", [("c", "c.md")])]
    assert groups_of(documents[0]) == groups
    listed = contents(documents[3], documents)
    assert '<h2>More</h2>\n<ul>\n<li><a href="d.html" aria-current=page>D</a></li>' in listed
    assert listed.count("aria-current") == 1


def test_what_is_no_site_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BrokenDocuments, match="holds something else than a site"):
        build(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_html_in_a_document_is_refused_and_comments_are_not_shown(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "docs").mkdir(parents=True)
    for name in ("README", "CONTRIBUTING", "CHANGELOG"):
        (root / f"{name}.md").write_text(f"# {name} <&>\n\n<!-- made by x -->\n\nText & `<b>`.\n")
    build(out, root)
    text = (out / "index.html").read_text()
    assert "made by" not in text
    assert "<p>Text &amp; <code>&lt;b&gt;</code>.</p>" in text
    (root / "CHANGELOG.md").write_text("# C\n\n<script>1</script>\n")
    with pytest.raises(BrokenDocuments, match=r"CHANGELOG\.md has HTML"):
        build(out, root)
    assert (out / "index.html").read_text() == text
