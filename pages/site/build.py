"""The site out of the documents: a page for each, the same place and name with `.html` for `.md`.

    build(out) -> README as index.html, docs/*.html, what they link to or show, style.css, search.js, search-index.js

So links between documents stay what they are, and the site can be read from a disk. A link that leads nowhere is an
error, and nothing is written. Cost: a few seconds. Not here: which documents there are (`document`).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pages.site.document import NOTEBOOK, Document, Heading, broken_links, is_elsewhere, plain, read_documents

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LONGEST = 3000  # characters of a section that can be searched


class BrokenDocuments(Exception):
    """Links that lead nowhere, what cannot be shown, or a folder that is no site."""


def build(out: Path, root: Path = ROOT) -> list[Path]:
    """Build the site into the folder `out`, which is replaced. Returns its files, index.html first."""
    if out.exists() and any(out.iterdir()) and not (out / "search-index.js").is_file():
        raise BrokenDocuments(f"{out} holds something else than a site. Choose another folder.")
    documents = read_documents(root)
    broken = broken_links(documents, root)
    if broken:
        raise BrokenDocuments("\n".join(broken))
    pages = {html_name(one.name): page(one, documents) for one in documents}
    pages["search-index.js"] = search_index(documents)
    shutil.rmtree(out, ignore_errors=True)
    for name, text in pages.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    for name in ("style.css", "search.js"):
        shutil.copyfile(HERE / name, out / name)
    shown = sorted(
        {
            ((root / one.name).parent / target.partition("#")[0]).resolve().relative_to(root.resolve())
            for one in documents
            for target in one.links
            if not is_elsewhere(target) and not target.startswith("#")
        }
    )
    files = [name for name in shown if name.as_posix() not in {one.name for one in documents}]
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, out / name)
    return [out / name for name in (*pages, "style.css", "search.js", *files)]


def html_name(name: str) -> str:
    """The page of a document, or the same name for another file."""
    return "index.html" if name == "README.md" else re.sub(r"\.(md|ipynb)$", ".html", name)


def page(document: Document, documents: Sequence[Document]) -> str:
    """The HTML of a document."""
    place = [one.name for one in documents].index(document.name)
    up = "../" * document.name.count("/")
    near = [
        f'<a rel="{rel}" href="{up}{html_name(documents[at].name)}">{word} {escape(documents[at].title)}</a>'
        for rel, word, at in (("prev", "Before:", place - 1), ("next", "Next:", place + 1))
        if 0 <= at < len(documents)
    ]
    return Template((HERE / "template.html").read_text(encoding="utf-8")).substitute(
        title=escape(document.title if place else "prefmerge: merge for the target"),
        description=escape(first_words(document)),
        up=up,
        contents=contents(document, documents),
        sections=sections(document),
        body=body(document),
        near="\n".join(near),
    )


def contents(document: Document, documents: Sequence[Document]) -> str:
    """The list of all pages, in the groups that the README has."""
    up = "../" * document.name.count("/")
    groups = groups_of(documents[0])
    listed = {name for _, several in groups for _, name in several}
    rest = [(one.title, one.name) for one in documents[1:] if one.name not in listed]
    groups = [("", [("Home", "README.md")]), *groups, *([("More", rest)] if rest else [])]
    lines = []
    for title, several in groups:
        lines += [f"<h2>{escape(title)}</h2>"] if title else []
        here = [
            f'<li><a href="{up}{html_name(name)}"{" aria-current=page" if name == document.name else ""}>'
            f"{escape(text[:1].upper() + text[1:])}</a></li>"
            for text, name in several
        ]
        lines += ["<ul>", *here, "</ul>"]
    return "\n".join(lines)


def groups_of(readme: Document) -> list[tuple[str, list[tuple[str, str]]]]:
    """The README's own lists of documents: a title such as "Look up", and (text, document) of each link below it."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    start = next((one.index for one in readme.headings if one.anchor == "where-to-go-next"), len(readme.tokens))
    seen: set[str] = set()
    for i, token in enumerate(readme.tokens[start:], start):
        if token.type != "inline":
            continue
        if readme.tokens[i - 1].level == 0 and token.content.endswith(":"):
            groups.append((token.content.rstrip(":"), []))
        for text, target in readme.linked([token]):
            if groups and target.endswith((".md", NOTEBOOK)) and not is_elsewhere(target) and target not in seen:
                seen.add(target)
                groups[-1][1].append((text, target))
    return groups


def sections(document: Document) -> str:
    """Links to the sections of a page; "" where it has one or none."""
    several = [one for one in document.headings if one.level == 2]
    if len(several) < 2:
        return ""
    links = [f'<li><a href="#{one.anchor}">{escape(one.text)}</a></li>' for one in several]
    return "\n".join(
        ['<nav class="sections" aria-label="On this page">', "<h2>On this page</h2>", "<ul>", *links, "</ul></nav>"]
    )


def first_words(document: Document) -> str:
    """The first paragraph, for what search engines show."""
    tokens = document.tokens
    first = next((i for i, one in enumerate(tokens) if one.type == "paragraph_open" and one.level == 0), None)
    return "" if first is None else plain(tokens[first + 1].children or [])[:200]


def body(document: Document) -> str:
    """The HTML of its Markdown."""
    anchors = {one.index: one for one in document.headings}
    parser = MarkdownIt("commonmark").enable("table")
    renderer: Any = parser.renderer
    rules = renderer.rules
    rules["table_open"] = lambda *_: '<div class="wide" tabindex="0" role="region" aria-label="Table"><table>\n'
    rules["table_close"] = lambda *_: "</table></div>\n"
    rules["heading_open"] = lambda tokens, i, *_: f'<{tokens[i].tag} id="{anchors[i].anchor}">'
    rules["heading_close"] = lambda tokens, i, *_: _close(tokens[i].tag, anchors[i - 2])
    rules["fence"] = lambda tokens, i, *_: _code(tokens[i].content, tokens[i].info.strip())
    rules["code_block"] = lambda tokens, i, *_: _code(tokens[i].content, "")
    rules["html_block"] = rules["html_inline"] = lambda tokens, i, *_: _html(tokens[i], document)
    return renderer.render([_with_pages(one) for one in document.tokens], parser.options, {})


def _close(tag: str, heading: Heading) -> str:
    label = escape(f"Link to the section {heading.text}", quote=True)
    return f' <a class="anchor" href="#{heading.anchor}" aria-label="{label}">#</a></{tag}>\n'


def _html(token: Token, document: Document) -> str:
    """Comments say what made a part, and are not shown."""
    if token.content.strip().startswith("<!--"):
        return ""
    raise BrokenDocuments(f"{document.name} has HTML, and Markdown says it all: {token.content.strip()[:80]}")


def _with_pages(token: Token) -> Token:
    """The token with links to pages in place of links to documents."""
    if not token.children:
        return token
    inner = []
    for one in token.children:
        href = str(one.attrs.get("href", ""))
        if one.type == "link_open" and href and not is_elsewhere(href):
            path, mark, anchor = href.partition("#")
            one = one.copy(attrs={**one.attrs, "href": f"{_page_of(path)}{mark}{anchor}"})
        elif one.type == "image":
            one = one.copy(attrs={**one.attrs, "loading": "lazy"})
        inner.append(one)
    return token.copy(children=inner)


def _page_of(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{html_name(name)}"


def _code(text: str, language: str) -> str:
    """A block of code, in colours where its language is known. A prompt is not selected with the command."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    if language in ("python", "yaml"):
        inner = highlight(text, get_lexer_by_name(language), HtmlFormatter(nowrap=True))
    else:
        inner = re.sub(r"^\$ ", '<span class="prompt">$ </span>', escape(text, quote=False), flags=re.MULTILINE)
    return f'<pre tabindex="0"><code>{inner}</code></pre>\n'


def search_index(documents: Sequence[Document]) -> str:
    """What can be searched: [page, title of the page, anchor, heading, words] of every section of levels 1 to 3."""
    rows = []
    for document in documents:
        marks = [one for one in document.headings if one.level <= 3]
        ends = [one.index for one in marks[1:]] + [len(document.tokens)]
        for mark, end in zip(marks, ends, strict=True):
            words = " ".join(_words(one) for one in document.tokens[mark.index + 3 : end])
            text = " ".join(words.split())[:LONGEST]
            rows.append([html_name(document.name), document.title, mark.anchor, mark.text, text])
    return f"const SECTIONS = {json.dumps(rows, ensure_ascii=False, separators=(',', ':'))};\n"


def _words(token: Token) -> str:
    if token.type in ("fence", "code_block"):
        return token.content
    return plain(token.children) if token.children else ""
