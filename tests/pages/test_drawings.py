"""The drawings of docs/selection.md are what merges give, and the page says what they show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pages.drawings import FOLDER, SHARES, drawings, merged, records, stages, ten
from pages.svg import Drawing
from tests.documents import python_blocks
from tests.oracles import selection as oracle

TEXT = (FOLDER.parent / "selection.md").read_text()
NAMES = ("magmax.svg", "records.svg", "passes.svg", "prices.svg", "border.svg", "second-pass.svg")


@pytest.fixture(scope="module")
def made() -> dict[str, Drawing]:
    return drawings()


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_what_the_merges_give(name: str, made: dict[str, Drawing]) -> None:
    assert sorted(made) == sorted(NAMES)
    assert (FOLDER / name).read_text(encoding="utf-8") == str(made[name]), "draw again: python -m pages.drawings"
    assert f"](selection/{name})" in TEXT


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_plain_and_says_what_it_shows(name: str) -> None:
    root = ET.fromstring((FOLDER / name).read_text())
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "text", "line", "circle"}
    assert all(root.findtext(f"{{*}}{tag}") for tag in ("title", "desc"))
    width = float(root.attrib["width"])
    assert all(float(one.attrib["x"]) + float(one.get("width", 0)) <= width for one in root.iter() if "x" in one.attrib)
    assert "prefers-color-scheme: dark" in (root.findtext("{*}style") or "")


def test_records_are_those_of_the_oracle() -> None:
    values = ten()
    assert len(set(values.flat)) == values.size
    for taking_part in ([0, 1, 2], [1, 2], [0, 2]):
        right = [
            {t for t in taking_part if oracle.is_record(values, t, p, taking_part)} for p in range(values.shape[1])
        ]
        assert records(values, taking_part) == right


@pytest.mark.parametrize("law", ["paper", "printed"])
def test_stages_are_what_the_oracle_replays(law: str) -> None:
    one = merged(ten(), SHARES, selection=law)
    asked = one.receipt.totals.asked or ()
    replayed = oracle.replay(one.values, asked, one.owners, law=law)
    walked = stages(one, law)
    for number in (1, 2):
        counts = [0, 0, 0]
        for stage in walked:
            counts[stage.task] += len(stage.taken) if stage.name.startswith(f"pass {number}") else 0
        assert counts == replayed.passes[number - 1]
    with pytest.raises(ValueError, match="the receipt counts"):
        stages(replace(one, owners=one.owners[::-1]), law)


def test_the_page_says_what_the_drawings_show(capsys: pytest.CaptureFixture[str]) -> None:
    paper, best = merged(ten(), SHARES, selection="paper"), merged(ten(), SHARES, selection="optimal")
    magmax = merged(ten(), SHARES, method="magmax")
    assert (magmax.receipt.owned, best.receipt.totals.asked) == ((6, 2, 2), (2, 3, 5))
    assert [owner + 1 for owner in paper.owners] == [2, 2, 1, 3, 2, 3, 1, 3, 3, 3]
    assert [owner + 1 for owner in best.owners] == [3, 2, 2, 1, 2, 3, 3, 1, 3, 3]
    prices = np.array([float(price or 0) for price in best.receipt.tensors["w"].prices or ()])
    sums = np.sort((best.values - prices[:, None]).round(3), axis=0)
    assert [int(p) + 1 for p in np.flatnonzero(sums[-1] == sums[-2])] == [1, 10]
    (code,) = python_blocks(TEXT)
    names: dict[str, object] = {}
    exec(code, names)
    assert np.array_equal(np.asarray(names["changes"]), ten())
    kept = re.findall(r"kept (\d+)\.0", capsys.readouterr().out)
    assert kept == [f"{paper.retained:.0f}", f"{best.retained:.0f}"]
    assert f"`paper` keeps {kept[0]} and `optimal` {kept[1]}." in TEXT
    (bars,) = (one for one in TEXT.splitlines() if "(selection/second-pass.svg)" in one)
    drawn = set(re.findall(r"[\d,.]+(?= %)|\d,\d{3}|\b\d{3}\b", Path(FOLDER / "second-pass.svg").read_text()))
    assert set(re.findall(r"[\d,.]+(?= %)|\d,\d{3}|\b\d{3}\b", bars)) <= drawn
