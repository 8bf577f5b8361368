"""What README, tutorial and notebook show is what is printed, on a demo that was trained for a moment.

Budgets depend on shapes alone, so a merge of any training owns as many elements. Accuracies depend on the training:
tests/cli/test_documents_run.py runs the commands that print them.
"""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import contextlib
import copy
import shutil
from pathlib import Path

import pytest

for package in ("torch", "accelerate", "sklearn", "matplotlib"):
    pytest.importorskip(package, reason="the demo needs its extra")

import matplotlib

from benchmarks import common, sessions
from pages.notebook import code_cells, read_notebook, run_cells, text_of
from prefmerge.lab.demo.digits import SHOWN, Digits, load_digits
from prefmerge.lab.demo.model import load_base
from prefmerge.lab.demo.run import write_place
from prefmerge.lab.demo.train import REGIME, fine_tune_in_sequence
from tests.lab.quick import two_candidates

QUICK = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1})
ANY_TRAINING = ("merge", "plan", "inspect", "verify")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / sessions.RUN
    digits = load_digits()
    few = Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})
    fine_tune_in_sequence(*load_base(), few, out, 0, QUICK)
    return out


@pytest.mark.parametrize("document", sessions.DOCUMENTS, ids=lambda file: file.stem)
def test_what_is_shown_is_what_is_printed(document: Path, demo: Path, tmp_path: Path):
    shutil.copytree(demo, tmp_path / sessions.RUN)
    compared = 0
    with contextlib.chdir(tmp_path):
        for one in sessions.sessions(document.read_text()):
            if one.command.split()[1] in ANY_TRAINING:
                assert sessions.steady("\n".join(one.printed)) == sessions.steady(sessions.printed(one.command))
                compared += 1
    assert compared >= 2


def test_the_notebook_shows_what_it_showed(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    matplotlib.use("agg")
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("prefmerge.target.adapt.candidates", two_candidates)
    shutil.copytree(demo, tmp_path / sessions.RUN)
    digits = load_digits()
    write_place(tmp_path / sessions.RUN, digits, digits.place(SHOWN))
    kept = read_notebook(common.ROOT / "examples" / "tour.ipynb")
    fresh = copy.deepcopy(kept)
    with contextlib.chdir(tmp_path):
        run_cells(fresh)
    compared = pictures = 0
    for old, new in zip(code_cells(kept), code_cells(fresh), strict=True):
        assert (old["source"], old["execution_count"]) == (new["source"], new["execution_count"])
        assert [one["output_type"] for one in old["outputs"]] == [one["output_type"] for one in new["outputs"]]
        pictures += sum("image/png" in one.get("data", {}) for one in old["outputs"])
        if "same" in old["metadata"].get("tags", ()):  # the others depend on the training
            assert text_of(old["outputs"]) == text_of(new["outputs"])
            compared += 1
    assert (compared, pictures) == (5, 2)


def test_a_session_ends_where_the_next_begins_or_the_text_goes_on():
    text = "See:\n\n    $ one -o x\n    1\n\n    2\n\n    $ two\n    old\n\nText.\n\n    no session\n"
    assert list(sessions.sessions(text)) == [
        sessions.Session("one -o x", ("1", "", "2")),
        sessions.Session("two", ("old",)),
    ]
    made = sessions.written(text, lambda command: f"{command} said\n\nthis  \n")
    assert made == (
        "See:\n\n    $ one -o x\n    one -o x said\n\n    this\n\n    $ two\n    two said\n\n    this\n\nText.\n\n"
        "    no session\n"
    )
    assert sessions.steady("wrote it (1.2 MB, 0.7 s), at most 4.2e-09 of it") == "wrote it (1.2 MB, *), at most * of it"


def test_the_picture_is_there_and_small():
    assert 10_000 < sessions.PICTURE.stat().st_size < 120_000
