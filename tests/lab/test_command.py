"""`prefmerge bench` as typed: report, tables and figures from a recipe; what a user gets wrong."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefmerge.cli import app
from prefmerge.cli.options import EXAMPLES

pytest.importorskip("transformers", reason="experiments need the extra train")
pytest.importorskip("matplotlib")
pytest.importorskip("optuna", reason="search needs the extra places")

RECIPE = """\
runs: {sequential: [RUNS/sequential-1, RUNS/sequential-2], independent: [RUNS/independent-1]}
scales: [0.5, 1.0]
methods: [MAGMAX, Tunable (Label), Tunable (MMD), Search]
environments: {size: 60, variants: [42], meta: 0.4}
search: {trials: 6, patience: 2}
similarity: {samples: 10}
diversity: {counts: [1, 3], variants: [42], methods: [MAGMAX, Tunable (Label)]}
alpha: {values: [0.5, 2]}
batch: 16
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, shlex.split(line), prog_name="prefmerge")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


def test_a_recipe_becomes_a_report(
    runs: Path, tmp_path: Path, call: Callable[[str], tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my-runs.yaml").write_text(RECIPE.replace("RUNS", str(runs)))
    code, told, _ = call("bench my-runs.yaml -o my-results --dry-run --report my-results/page.html")
    assert code == 0
    assert "seed 1, e1 variant 0, Search" in told
    assert not (tmp_path / "my-results").exists()

    (line,) = EXAMPLES["bench"]
    code, told, said = call(f"{line.removeprefix('prefmerge ')} --jobs 1 --report my-results/page.html")
    assert code == 0, said
    assert "Report:  my-results/page.html" in told
    assert "report.html" in told
    assert "MAGMAX" in told
    assert "pieces of work, 0 of them done" in said
    out = tmp_path / "my-results"
    page = (out / "report.html").read_text()
    assert (out / "page.html").read_text() == page
    for word in ("Tunable (Label)", "Search", "my-runs", "data:image/png;base64"):
        assert word in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
    for name in ("sign_conflicts", "magnitudes", "distributions"):
        assert (out / "figures" / f"{name}.png").is_file()
    results = json.loads((out / "results.json").read_text())
    searched = [one for one in results["scores"] if one["method"] == "Search"]
    assert len(searched) == 5 * 2
    assert all(one["scale"] == "" and one["chosen"] for one in searched)
    assert not list(out.glob("searches/*"))

    def no_work(*_: object) -> None:
        raise AssertionError("nothing was to be done again")

    from prefmerge.lab import work

    monkeypatch.setattr(work, "do", no_work)
    before = (out / "results.json").read_bytes()
    code, told, _ = call("bench my-runs.yaml -o my-results --jobs 1 --json")
    assert code == 0
    assert json.loads(told) == results
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("bench", 2, "Missing argument 'RECIPE.yaml'"),
        ("bench none.yaml", 2, "-o OUT is missing"),
        ("bench none.yaml -o out", 1, "none.yaml: no such file"),
        ("bench wrong.yaml -o out", 1, "unknown key 'method'. Did you mean 'methods'?"),
        ("bench paper.yaml -o out", 1, "no table was published for 'cifar100-6'. Did you mean 'cifar100-5'?"),
        ("bench gone.yaml -o out", 1, "no such folder"),
        ("bench gone.yaml -o gone.yaml", 1, "cannot be made a folder"),
    ],
)
def test_what_a_user_gets_wrong(
    tmp_path: Path, call: Callable[[str], tuple[int, str, str]], line: str, code: int, said: str
):
    (tmp_path / "wrong.yaml").write_text("runs: [a]\nmethod: all\n")
    (tmp_path / "paper.yaml").write_text("runs: [a]\npaper: {environments: cifar100-6}\n")
    (tmp_path / "gone.yaml").write_text("runs: [a]\n")
    found = call(line)
    assert found[0] == code
    assert said in " ".join(found[2].split())


def test_a_failed_piece_of_work_is_an_error_after_the_report(
    runs: Path, tmp_path: Path, call: Callable[[str], tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
):
    from prefmerge.errors import DataError
    from prefmerge.lab import work

    def failing(*_: object) -> None:
        raise DataError("the disk caught fire.")

    monkeypatch.setattr(work, "do", failing)
    text = RECIPE.replace("RUNS", str(runs)).replace("[MAGMAX, Tunable (Label), Tunable (MMD), Search]", "[MAGMAX]")
    (tmp_path / "my-runs.yaml").write_text(f"{text}studies: [places]\n")
    code, _, said = call("bench my-runs.yaml -o out --jobs 1")
    assert code == 1
    said_first = "4 pieces of work could not be done, the first: sequential, seed 1, MAGMAX, scale 0.5: the disk caught"
    assert said_first in said
    assert "the disk caught fire" in (tmp_path / "out" / "report.md").read_text()


def test_a_dry_run_trains_nothing(runs: Path, tmp_path: Path, call: Callable[[str], tuple[int, str, str]]):
    (tmp_path / "my-runs.yaml").write_text(f"finetune: {runs}/sequential-1.yaml\nseeds: [8, 9]\n")
    code, told, _ = call("bench my-runs.yaml -o out --dry-run")
    assert code == 0
    assert "To be trained first: sequential-seed-8, sequential-seed-9." in told
    assert not (tmp_path / "out").exists()
