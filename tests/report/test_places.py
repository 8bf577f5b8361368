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
from prefmerge.errors import OutputExists, UsageError
from prefmerge.outputs.companions import companions_among
from prefmerge.report import place

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


# What is refused before anything is merged


def test_a_page_of_somebody_else_beside_a_file_is_replaced_with_force_only(files: Path) -> None:
    beside = files / "out.safetensors.report.html"
    beside.write_text(MINE)
    with pytest.raises(OutputExists, match=r"report\.html: exists already, and prefmerge did not make it"):
        merged(files, "out.safetensors", report=True)
    assert not (files / "out.safetensors").exists()
    assert beside.read_text() == MINE
    merged(files, "out.safetensors", report=True, force=True)
    signed(beside)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_where_the_report_goes(files: Path, force: bool) -> None:
    (files / "out.safetensors.report.html").mkdir()
    with pytest.raises(OutputExists, match=r"report\.html: is a folder\. Give the report another name"):
        merged(files, "out.safetensors", report=True, force=force)
    assert not (files / "out.safetensors").exists()


def test_a_file_in_a_folder_that_is_yet_to_be_made_may_have_a_report(files: Path) -> None:
    merged(files, "new/out.safetensors", report=True)
    signed(files / "new" / "out.safetensors.report.html")


def test_the_report_of_a_folder_may_be_called_by_its_name(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "link").symlink_to(files)
    monkeypatch.chdir(files)
    for where in ("out/report.html", files / "link" / "out" / "report.html", "out/report.html"):
        merged(files, "out", report=where, force=True)
        signed(files / "out" / "report.html")
    (files / "out" / "report.html").write_text(MINE)  # it goes with the folder, as all that is in it
    merged(files, "out", report="out/report.html", force=True)
    signed(files / "out" / "report.html")


@pytest.mark.parametrize("name", ["page.html", "sub/report.html", "Report.html"])
@pytest.mark.parametrize("there", [False, True])
def test_no_other_page_in_the_output_folder(files: Path, name: str, there: bool) -> None:
    if there:
        merged(files, "out")
    kept = [] if not there else sorted(path.name for path in (files / "out").iterdir())
    with pytest.raises(UsageError, match=r"in the output folder .*Give --report alone for it, or a file outside"):
        merged(files, "out", report=files / "out" / name, force=True)
    assert (sorted(path.name for path in (files / "out").iterdir()) if there else []) == kept
    assert (files / "out").exists() == there


@pytest.mark.parametrize("name", ["page.html", "page.HTM"])
def test_a_page_is_no_model(files: Path, name: str) -> None:
    for report in (None, files / name):
        with pytest.raises(UsageError, match=r"writes a \.safetensors file or a folder, not \.(html|HTM)"):
            merged(files, name, report=report)
    assert not (files / name).exists()


def test_a_folder_that_the_command_makes_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("new/page.html", tmp_path / "new" / "report.html", "./new/../new/page.html"):
        found = place.asked(file, made=Path("new"))
        assert found is not None
        assert found.file == Path(file)
    for file in ("new/figures/page.html", "other/page.html"):
        with pytest.raises(UsageError, match="there is no folder"):
            place.asked(file, made=Path("new"))
    assert not list(tmp_path.iterdir())
