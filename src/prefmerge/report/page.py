"""The page around the parts of a report, and how every report looks: the colours and letters of the studio.

One file. Its policy (Content-Security-Policy) forbids scripts and all that is loaded, so not even a mistake loads
something. Light and dark as the reader's system is; on paper tables are whole. Cost: 6 kB for the style.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from prefmerge.report.markup import Html, tag, together
from prefmerge.report.parts import PageSection
from prefmerge.version import __version__

GENERATOR = "prefmerge"
TURN = Html("\n")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("look.css").read_text(encoding="utf-8")


def page(title: str, sections: Iterable[PageSection], *, lead: Sequence[Html] = (), contents: bool = False) -> str:
    """One file of HTML. `lead`: what stands above all sections. `contents`: with a list of them."""
    held = list(sections)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    links = [tag("li", tag("a", one.title, href=f"#{one.anchor}")) for one in held]
    navigation = tag("nav", tag("ul", *links), aria_label="Contents") if contents else Html()
    body = [
        tag("section", tag("h2", one.title), TURN, *(together(part, TURN) for part in one.parts), id=one.anchor)
        for one in held
    ]
    inside = [
        tag("header", tag("h1", title), TURN, *lead),
        navigation,
        tag("main", *(together(part, TURN) for part in body)),
        tag("footer", f"Made by prefmerge {__version__}."),
    ]
    return f"<!doctype html>\n{tag('html', head, tag('body', *inside), lang='en')}\n"
