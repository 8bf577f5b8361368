"""Where reports go: beside the model, never over what is not ours, and never from one merge into another's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge import Receipt
from prefmerge.checkpoints.hub_files import RepositoryFiles
from prefmerge.outputs.companions import companions_among

MINE = "<html>mine</html>"
OLD = "<!doctype html><title>Adapted to a target</title>"  # the first versions did not sign their reports


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
        save_file({"w": rng.standard_normal(30).astype(np.float32)}, tmp_path / name / "model.safetensors")
    return tmp_path


def merged(folder: Path, out: str, *, base: str = "base", **given: Any) -> Receipt:
    given.setdefault("method", "magmax")
    return prefmerge.merge(folder / base, [folder / "a", folder / "b"], folder / out, **given)


def signed(file: Path) -> str:
    text = file.read_text()
    assert 'name="generator" content="prefmerge ' in text
    return text


# What a base has


def test_a_merge_of_a_merge_has_no_report_or_its_own(files: Path) -> None:
    merged(files, "first", report=True)
    (files / "first" / "other.html").write_text((files / "first" / "report.html").read_text())
    plain = merged(files, "plain", base="first")
    assert not list((files / "plain").glob("*.html"))
    assert not [note for note in plain.notes if "html" in note]
    merged(files, "again", base="first", method="ties", report=True)
    assert "ties" in signed(files / "again" / "report.html")
    assert [path.name for path in (files / "again").glob("*.html")] == ["report.html"]


def test_an_old_report_is_known_by_the_receipt_beside_it(files: Path) -> None:
    merged(files, "first")
    (files / "first" / "report.html").write_text(OLD)
    plain = merged(files, "plain", base="first")
    assert not (files / "plain" / "report.html").exists()
    assert "not copied from the base's folder: report.html (the report of another merge)." in plain.notes


def test_a_page_of_somebody_else_is_copied_unless_ours_takes_its_place(files: Path) -> None:
    (files / "base" / "report.html").write_text(MINE)
    merged(files, "plain")
    assert (files / "plain" / "report.html").read_text() == MINE
    merged(files, "elsewhere", report=files / "page.html")
    assert (files / "elsewhere" / "report.html").read_text() == MINE
    merged(files, "shown", report=True)
    signed(files / "shown" / "report.html")


@pytest.mark.parametrize(("receipt", "fetched"), [([], ["x/report.html"]), (["x/receipt.json"], [])])
def test_a_report_is_not_fetched_with_a_merged_base(receipt: list[str], fetched: list[str]) -> None:
    names = ["x/model.safetensors", "x/report.html", *receipt]
    assert companions_among(names, RepositoryFiles("x/", ("x/model.safetensors",))) == fetched


# What an output had


@pytest.mark.parametrize("report", [None, "page.html"])
def test_a_file_that_is_replaced_takes_its_report_along(files: Path, report: str | None) -> None:
    beside = files / "out.safetensors.report.html"
    merged(files, "out.safetensors", report=True)
    signed(beside)
    merged(files, "out.safetensors", method="ties", force=True, report=report and files / report)
    assert not beside.exists()
    merged(files, "out.safetensors", force=True, report=beside)
    signed(beside)


def test_a_page_of_somebody_else_stays_beside_a_file(files: Path) -> None:
    beside = files / "out.safetensors.report.html"
    beside.write_text(MINE)
    merged(files, "out.safetensors")
    merged(files, "out.safetensors", force=True)
    assert beside.read_text() == MINE
