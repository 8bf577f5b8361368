"""The template: nothing from outside becomes markup, every picture has words and numbers, one look for all."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from prefmerge.errors import OutputError, OutputExists, UsageError
from prefmerge.report import charts, place
from prefmerge.report.charts import MOST_ROWS, Bar, StackedBar
from prefmerge.report.markup import Html, escaped, name, shortened, tag
from prefmerge.report.page import page
from prefmerge.report.parts import code, details, facts, listing, paragraph, section, table
from tests.report.pages import lawful

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "<!-- ]]> &lt;b&gt; &amp;",
    "a\x00b\x1b[2J\x7f\x85c\u2028d",
    "a\u202eb\u2066c",
    "سيارات و טיול",
    "é" * 5000,
    "\ud800 half",
    "",
)


def everything(text: str) -> str:
    """A page that has the text in every place where a text can be."""
    numbers = table(text, [text, text], [[text, text], [text, "1"]], notes=[text])
    drawn = [Bar(text, 0.5, text, 0.2, 0.7), Bar(text, None, text)]
    parts = [
        paragraph(text, tag("b", text, title=text)),
        facts([(text, text)]),
        listing([text]),
        code(text),
        details(text, text),
        name(text),
        charts.bars("one", text, text, drawn, numbers),
        charts.stacks("two", text, text, [text, "other"], [StackedBar(text, (0.5, 0.25), text)], numbers),
    ]
    return page(text, [section("Text", *map(Html, parts))], lead=[paragraph(text)], contents=True)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_becomes_markup(text: str) -> None:
    plain, hostile = lawful(everything("name")), lawful(everything(text))
    assert set(hostile.tags) == set(plain.tags)
    if len(text) <= charts.CHARACTERS:  # a longer one stands in a chart twice: for a phone, and for wider windows
        assert hostile.tags == plain.tags


def test_texts_are_shown_as_they_are() -> None:
    shown = lawful(everything("a <b> & \"c\" 'd'")).shown
    assert "a <b> & \"c\" 'd'" in shown
    assert "a\\x1b[2J" in lawful(everything("a\x1b[2J")).shown
    assert "a\\u202eb" in lawful(everything("a\u202eb")).shown
    assert "<bdi>سيارات</bdi>" in everything("سيارات")  # what is read from the right turns nothing around it


def test_what_is_html_already_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "a<b"), "&") == "<p><b>a&lt;b</b>&amp;</p>"
    assert escaped(escaped("<")) == "&lt;"
    assert tag("meta", http_equiv="x", class_=None, hidden=True, open=False) == '<meta http-equiv="x" hidden>'


def test_long_names_keep_both_ends() -> None:
    assert shortened("a" * 20 + "b" * 20, 10) == "aaaaaa…bbb"
    assert shortened("short", 10) == "short"
    assert len(shortened("x" * 1000, 34)) == 34


def test_code_is_whole() -> None:
    lines = "\n".join(f"line {i}" for i in range(2000))
    assert html.unescape(code(lines).partition(">")[2].removesuffix("</pre>")) == lines


def test_a_bar_is_as_long_as_its_value() -> None:
    made = charts.bars("b", "t", "s", [Bar("x", 0.25, "25 %", 0.1, 0.4)], paragraph("numbers"), most=0.5)
    assert '<rect x="0.000%" y="20" width="50.000%" height="14" class="fill"/>' in made
    assert '<rect x="20.000%" y="26" width="60.000%" height="2" class="span"/>' in made
    assert made.index("<svg") < made.index("<details>") < made.index("numbers")


def test_the_parts_of_a_stack_stand_side_by_side() -> None:
    made = charts.stacks("b", "t", "s", ["cars", "birds"], [StackedBar("x", (0.5, 0.25), "75 %")], paragraph("n"))
    assert '<title>1 cars: 50.0 %</title><rect x="0.000%" y="20" width="50.000%" height="14" class="t0"/>' in made
    assert '<title>2 birds: 25.0 %</title><rect x="50.000%" y="20" width="25.000%" height="14" class="t1"/>' in made
    many = charts.stacks(
        "b", "t", "s", [str(i) for i in range(20)], [StackedBar("x", (0.05,) * 20, "")], paragraph("n")
    )
    assert len({part.partition('"')[0] for part in many.split('fill="hsl(')[1:]}) == 20


def test_a_chart_of_very_many_rows_shows_the_first_and_says_so() -> None:
    rows = [Bar(f"layer {i}", 0.5, "50 %") for i in range(MOST_ROWS + 5)]
    made = charts.bars("b", "t", "s", rows, paragraph("numbers"))
    assert made.count('class="track"') == MOST_ROWS
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 5}. The table has all." in made
    assert charts.bars("b", "t", "s", [], paragraph("numbers")) == "<p>numbers</p>"


@pytest.mark.parametrize(("value", "width"), [(-0.5, "0.000"), (0.0, "0.000"), (1.7, "100.000")])
def test_no_bar_leaves_its_track(value: float, width: str) -> None:
    assert f'width="{width}%" height="14" class="fill"' in charts.bars("b", "t", "s", [Bar("x", value, "")], Html())


# Where a report goes


def test_where_a_report_goes(tmp_path: Path) -> None:
    assert place.asked(None) is None
    assert place.asked(False) is None
    there = place.asked(True)
    assert there is not None
    assert there.of(tmp_path / "out", folder=True) == tmp_path / "out" / "report.html"
    assert there.of(tmp_path / "m.safetensors", folder=False) == tmp_path / "m.safetensors.report.html"
    named = place.asked(tmp_path / "a.HTML")
    assert named is not None
    assert named.of(tmp_path / "out", folder=True) == tmp_path / "a.HTML"


def test_what_is_no_report_is_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "mine.html"
    file.write_text("<p>mine")
    with pytest.raises(OutputExists, match=r"mine\.html: exists already, and prefmerge did not make it\."):
        place.asked(file)
    assert place.asked(file, force=True) is not None
    file.write_text(page("ours", []))
    assert place.asked(file) is not None
    with pytest.raises(UsageError, match=r"--report .*base\.safetensors: a report is an HTML file\."):
        place.asked(tmp_path / "base.safetensors")
    with pytest.raises(UsageError, match=r"there is no folder .*absent\. Make it first\."):
        place.asked(tmp_path / "absent" / "r.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputExists, match=r"folder\.html: is a folder\."):
        place.asked(tmp_path / "folder.html", force=True)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"r\.html: the report cannot be written: "):
        place.write(tmp_path / "absent" / "r.html", "text")
