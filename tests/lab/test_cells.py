"""Keys and files of cells: those that an older version finished are found and read; what is damaged is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefmerge.analysis import Measured
from prefmerge.errors import DataError
from prefmerge.lab.cells import Cell
from prefmerge.lab.entries import KNOWN, Entry
from prefmerge.lab.kinds import (
    AtTarget,
    CheckpointsSpec,
    Counts,
    FixedSpec,
    Grades,
    Likenesses,
    Mark,
    MeasureSpec,
    ModelSpec,
    OnAll,
    Searched,
    SearchSpec,
    SimilaritySpec,
    Spec,
    TargetSpec,
)

# Written by version 0.1, before specs and results had types; long lists of a result are cut.
_LINES = Path(__file__).with_name("kept_cells.jsonl").read_text().splitlines()
KEPT: dict[str, Any] = {line["key"]: line["file"] for line in map(json.loads, _LINES)}

RUN = "496362435ab19543f733299f2e5fbd69"
TESTED = "6eed2fcb286c7a6b56312e09de418294"
MARKS = tuple(Mark(*one) for one in next(f for f in KEPT.values() if f["kind"] == "similarity")["spec"]["environments"])
SCALES = ("0.5", "1.0")
OT = {"solver": "sinkhorn", "regularization": 0.1, "iterations": 100, "gamma": 100.0}
SPECS: list[tuple[str, Spec[Any], type]] = [
    ("sequential, seed 1, MAGMAX", FixedSpec({"method": "magmax"}, SCALES, TESTED, 1, 16), OnAll),
    ("sequential, seed 1, Baseline, not merged", ModelSpec("last", TESTED, 16), OnAll),
    (
        "seed 1, similarities of places and tasks",
        SimilaritySpec({"cosine": {"gamma": 50.0}, "label": {}, "ot": OT}, 10, MARKS, 16),
        Likenesses,
    ),
    ("seed 1, every checkpoint on what places show", CheckpointsSpec(SCALES, MARKS, 16), Counts),
    (
        "seed 1, even variant 0, Best checkpoint",
        TargetSpec(KNOWN["Best checkpoint"], MARKS[0], SCALES, 1, 16),
        AtTarget,
    ),
    (
        "seed 1, even variant 0, Tunable (OT)",
        TargetSpec(Entry("Tunable (OT)", "preference", {}, "ot"), MARKS[0], SCALES, 1, 16, OT, 10),
        AtTarget,
    ),
    (
        "seed 1, even variant 0, Tunable (Label)",
        TargetSpec(Entry("Tunable (Label)", "preference", {}, "label"), MARKS[0], SCALES, 1, 16),
        AtTarget,
    ),
    ("seed 1, even variant 0, Search", SearchSpec(Entry("Search", "search"), MARKS[0], 1, 16, 6, 2), Searched),
    ("sequential, seed 1, task vectors", MeasureSpec(), Measured),
]


def cell(title: str, spec: Spec[Any], after: Cell[Any] | None = None) -> Cell[Any]:
    return Cell(spec, 1, "anywhere", RUN, 1, title, after)


def folder(tmp_path: Path) -> Path:
    """An output with the kept cells in it."""
    (tmp_path / "cells").mkdir()
    for key, file in KEPT.items():
        (tmp_path / "cells" / f"{key}.json").write_text(json.dumps(file) + "\n")
    return tmp_path


@pytest.mark.parametrize(("title", "spec", "kind"), SPECS, ids=[title for title, _, _ in SPECS])
def test_what_an_older_version_kept_is_found_and_written_alike(tmp_path: Path, title: str, spec: Spec[Any], kind: type):
    one, out = cell(title, spec), folder(tmp_path)
    assert one.key in KEPT
    result = one.load(out)
    assert type(result) is kind
    one.keep(tmp_path / "again", result)
    (again,) = (tmp_path / "again" / "cells").iterdir()
    before = out / "cells" / again.name
    if kind is not Measured:  # its summary is computed from the lists that were cut
        assert again.read_bytes() == before.read_bytes()
    assert json.loads(again.read_bytes())["spec"] == json.loads(before.read_bytes())["spec"]


def test_a_search_of_another_form_is_another_cell():
    title, plain = next((title, spec) for title, spec, _ in SPECS if isinstance(spec, SearchSpec))
    forms = ({}, KNOWN["Search"].settings, {"selection": "optimal", "importance": "step"})
    keys = [cell(title, replace(plain, entry=Entry("Search", "search", form))).key for form in forms]
    assert len({*keys}) == 3
    assert KNOWN["Search"].settings == {"selection": "paper", "importance": "magnitude"}


def test_the_search_of_a_cell_has_the_form_that_its_entry_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch", reason="cells need the extra train")
    from prefmerge.lab import work
    from prefmerge.target.search import scoring, tuning

    asked: dict[str, Any] = {}

    def tune(*_: Any, **given: Any) -> None:
        asked.update(given)
        raise InterruptedError

    monkeypatch.setattr(tuning, "tune", tune)
    monkeypatch.setattr(scoring, "scorer", lambda *_, **__: None)
    monkeypatch.setattr(scoring, "among_of", lambda _: None)
    nothing = SimpleNamespace(encoder=None, head=None, scenario=None)
    shown = SimpleNamespace(examples=SimpleNamespace(labels=[], ids=[]))
    label = SimpleNamespace(preference=lambda: None)
    bench = SimpleNamespace(
        opened=nothing,
        out=tmp_path,
        candidates=None,
        device=None,
        shown=lambda _: shown,
        label_similarity=lambda _: label,
    )
    spec = SearchSpec(KNOWN["Search"], MARKS[0], 1, 16, 6, 2)
    with pytest.raises(InterruptedError):
        work._search(bench, cell("search", spec), spec)  # pyright: ignore[reportArgumentType]  # only what it asks for
    assert asked["space"].otherwise == KNOWN["Search"].settings
    assert asked["study"].stem == cell("search", spec).key


def test_every_kind_is_pinned():
    assert {spec.kind for _, spec, _ in SPECS} == {one.kind for one in Spec.__subclasses__()}
    assert len(SPECS) == len(KEPT)


def test_a_damaged_cell_is_none(tmp_path: Path):
    title, spec, _ = SPECS[0]
    one, out = cell(title, spec), folder(tmp_path)
    file = out / "cells" / f"{one.key}.json"
    for damage in ('{"format": ', "[]", '{"format": "prefmerge-cell/2", "result": {"scales": {}}}', '{"result": {}}'):
        file.write_text(damage)
        assert one.load(out) is None, damage
    file.write_text(json.dumps({**KEPT[one.key], "result": {"scales": {"0.5": {"right": "xy"}}}}))
    assert one.load(out) is None


def test_a_cell_reads_the_one_before_it(tmp_path: Path):
    out = folder(tmp_path)
    before = cell(*SPECS[2][:2])
    one = cell(*SPECS[5][:2], before)
    likeness = one.before(out, Likenesses).kinds["ot"]["even/0"]
    shares = likeness.preference().shares(["task-01", "task-02", "task-03"])
    assert [float(share) for share in shares] == pytest.approx(likeness.shares)
    (out / "cells" / f"{before.key}.json").unlink()
    with pytest.raises(DataError, match=r"similarity-.*\.json: cannot be read, and seed 1, even variant 0, Tunable"):
        one.before(out, Likenesses)


@pytest.mark.parametrize("n", [1, 7, 8, 9])
def test_answers_are_kept_bit_by_bit(n: int):
    right = np.random.default_rng(n).random(n) < 0.5
    again = Grades.from_json(Grades(right, "x").to_json())
    assert again.right.tolist() == right.tolist()
    assert again.samples == "x"
