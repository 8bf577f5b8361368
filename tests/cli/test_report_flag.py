"""`--report` has one rule: alone it stands for the place by the output, before an HTML file for that file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prefmerge.cli.app import reports_alone
from tests.cli.conftest import Result
from tests.report.pages import lawful

Call = Callable[[str], Result]
THREE = "base.safetensors cars.safetensors birds.safetensors"
FOLDERS = "base cars birds"


def done(call: Call, line: str) -> str:
    result = call(line)
    assert (result.code, result.exception) == (0, None), result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("--report a b", "--report= a b"),
        ("a --report", "a --report="),
        ("--report page.html a", "--report page.html a"),
        ("--report PAGE.HTM a", "--report PAGE.HTM a"),
        ("--report=page.html a", "--report=page.html a"),
        ("--report -o out", "--report= -o out"),
        ("a -- --report b", "a -- --report b"),
        ("--report -- b.html", "--report= -- b.html"),
        ("a --reports", "a --reports"),
    ],
)
def test_what_follows_is_taken_where_it_is_a_page(words: str, read: str) -> None:
    assert reports_alone(words.split()) == read.split()


@pytest.mark.parametrize(
    ("line", "file", "title"),
    [
        (f"merge {FOLDERS} -o out --report", "out/report.html", "A merged model"),
        (f"merge --report {FOLDERS} -o out", "out/report.html", "A merged model"),
        (f"merge {FOLDERS} -o out --report page.html", "page.html", "A merged model"),
        (f"merge {THREE} -o m.safetensors --report", "m.safetensors.report.html", "A merged model"),
        (f"sweep {FOLDERS} -o swept --vary scale=0.5|1 --report", "swept/report.html", "A sweep of merges"),
        (f"sweep {FOLDERS} -o swept --vary scale=0.5|1 --report page.html", "page.html", "A sweep of merges"),
        (f"inspect {THREE} --report", "report.html", "Task vectors"),
        (f"inspect {THREE} --against birds.safetensors --report page.html", "page.html", "Task vectors"),
        ("inspect base --report page.html", "page.html", "A checkpoint"),
    ],
)
def test_a_report(call: Call, folder: Path, line: str, file: str, title: str) -> None:
    shown = done(call, line)
    assert next(one.split(":")[1].strip() for one in shown.splitlines() if one.startswith("Report:")) == file
    page = lawful((folder / file).read_text())
    assert f"<h1>{title}</h1>" in page.source
    assert "cars" in page.shown or "base" in line
    assert str(folder) not in page.source
    json.loads(done(call, line.replace("page.html", "other.html") + " --json" + " --force" * ("-o" in line)))


def test_a_merged_model_is_told_from_its_receipt(call: Call, folder: Path) -> None:
    done(call, f"merge {FOLDERS} -o out --prefer 0.8,0.2 --scope model")
    done(call, "inspect out --report one.html")
    page = lawful((folder / "one.html").read_text())
    assert "Owners by layer" in page.shown
    assert page.row("block 0")[1] == "100"
    assert "measured while merging" in page.shown
    done(call, "inspect out/receipt.json --by tensor --report one.html")
    assert lawful((folder / "one.html").read_text()).row("layers.0.w")[1] == "100"
    done(call, f"merge {FOLDERS} -o even --prefer 0.5,0.5 --exclude scale")
    done(call, "inspect even --report two.html")
    page = lawful((folder / "two.html").read_text())
    assert "Every layer has the shares of the whole" in page.shown
    assert page.pictures == 1  # of the owners, not the same bar for every layer


def test_task_vectors(call: Call, folder: Path) -> None:
    data = json.loads(done(call, f"inspect {THREE} --report page.html --json"))
    page = lawful((folder / "page.html").read_text())
    summary = data["sets"][0]["summary"]
    assert page.row("cars")[1] == f"{100 * summary['contributions'][0]:.1f} %"
    blocks = {row[0]: row for row in page.rows if row[0] in ("block 0", "block 1")}
    assert blocks["block 0"] != blocks["block 1"]
    for sentence in data["findings"]:
        assert sentence in page.shown
    assert f"prefmerge inspect {THREE} --report" in page.shown


def test_several_recipes_have_a_report_each(call: Call, folder: Path) -> None:
    one = "merge_method: magmax\nbase_model: base\nmodels:\n- model: cars\n- model: birds\n"
    (folder / "two.yaml").write_text(f"name: a\n{one}---\nname: b\n{one}")
    done(call, "merge two.yaml -o out --report")
    for name in "ab":
        lawful((folder / "out" / name / "report.html").read_text())
    refused = call("merge two.yaml -o out2 --report page.html")
    assert refused.code == 2
    assert "--report page.html is one file, and two.yaml has several recipes." in refused.stderr


def test_what_is_refused(call: Call, folder: Path) -> None:
    (folder / "mine.html").write_text("<p>mine")
    for line in (f"merge {FOLDERS} -o out", f"sweep {FOLDERS} -o out --vary scale=1|2", f"inspect {FOLDERS}"):
        for where, said in (
            ("--report=base.safetensors", "error: --report base.safetensors: a report is an HTML file."),
            ("--report mine.html", "error: mine.html: exists already, and prefmerge did not make it."),
            ("--report absent/p.html", "error: --report absent/p.html: there is no folder"),
        ):
            refused = call(f"{line} {where}")
            assert refused.code != 0
            assert refused.stderr.startswith(said)
            assert not (folder / "out").exists()
    assert (folder / "mine.html").read_text() == "<p>mine"
