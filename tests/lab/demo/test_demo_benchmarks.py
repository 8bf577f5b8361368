"""The demo's scripts at toy size, and the promise that what ships is what they chose and wrote."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the demo trains with torch (extra demo)")
pytest.importorskip("accelerate", reason="training is accelerate's (extra demo)")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")
pytest.importorskip("matplotlib", reason="the base is rendered from matplotlib's fonts (extra demo)")

from safetensors.torch import load_file

from benchmarks import demo_base, demo_regimes, demo_tables
from prefmerge.lab.demo.digits import NAMES, PLACES, SHOWN, Digits, load_digits
from prefmerge.lab.demo.evaluate import right_images, share
from prefmerge.lab.demo.model import BASE, HEAD, load_base
from prefmerge.lab.demo.run import label_preference
from prefmerge.lab.demo.train import REGIME
from prefmerge.models.heads import Head

ROOT = Path(__file__).parents[3]


def results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"demo_{name}.json").read_text())


@pytest.fixture(scope="module")
def few() -> Digits:
    digits = load_digits()
    return Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})


@pytest.fixture
def threads() -> Any:
    """The scripts use one thread; the tests after them have what they had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_regimes_are_searched_and_taken_up_again(
    few: Digits, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_regimes, "load_digits", lambda: few)
    monkeypatch.setattr(demo_regimes, "SCALES", (0.5, 1.0))
    grid = {"learning_rate": (1e-12, 1e-3), "epochs": (1,), "logit_scale": (20.0,)}
    found = demo_regimes.search_regimes(tmp_path / "r.json", grid, (100,))
    assert json.loads((tmp_path / "r.json").read_text()) == found
    untrained, trained = found["tried"]
    assert untrained["runs"][0]["other_places"] == found["base"]["other_places"]
    assert found["chosen"]["learning_rate"] == max((untrained, trained), key=demo_regimes.score)["learning_rate"]
    assert set(found["magmax_by_scale"]) == {"0.5", "1.0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_regimes, "soundness", lambda *_: pytest.fail("tried twice"))
        assert demo_regimes.search_regimes(tmp_path / "r.json", grid, (100,))["tried"] == found["tried"]


def test_methods_are_compared_on_what_prefmerge_merges(
    few: Digits, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefmerge

    monkeypatch.setattr(demo_regimes, "load_digits", lambda: few)
    regime = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1})
    monkeypatch.setattr(demo_regimes, "REGIME", regime)
    places = (SHOWN, (1, 3))
    found = demo_regimes.compare_methods(tmp_path / "m.json", (7,), (0.5, 1.0), places)
    run = found["runs"]["7"]
    assert set(run["accuracy"]) == {"base", *demo_regimes.METHODS}
    assert (run["default_scale"]["MAGMAX"], run["default_scale"]["average"]) == (0.5, 1.0)
    base, *states = demo_regimes.trained(few, regime, 7)
    at_place = few.place((1, 3))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("MAGMAX", {}),
        ("Tunable MAGMAX (paper)", {"preference": label_preference(few, at_place)}),
    ]
    for name, options in asked:
        merged, _ = prefmerge.merge_state_dicts(
            base, states, names=NAMES, **demo_regimes.METHODS[name], **options, scale=1.0
        )
        right = run["accuracy"][name]["1.0"]["right"][found["places"].index("2-4")]
        assert right / len(at_place.test) == share(right_images(merged, *load_base(), few), at_place.test)
    assert len({json.dumps(entry) for entry in run["accuracy"].values()}) > 5


def test_the_shipped_regime_is_the_chosen_one() -> None:
    found = results("regimes")
    best = max(found["tried"], key=lambda entry: sum(run["other_places"] for run in entry["runs"]))
    for key in ("learning_rate", "epochs", "logit_scale"):
        assert getattr(REGIME, key) == found["chosen"][key] == best[key] == results("methods")["regime"][key]
    assert found["common_scale"] == demo_regimes.COMMON_SCALE
    assert len(found["tried"]) == len(found["grid"]["learning_rate"]) * len(found["grid"]["epochs"]) * len(
        found["grid"]["logit_scale"]
    )


def test_the_page_is_the_one_that_the_results_make() -> None:
    found = results("methods")
    assert len(found["runs"]) == len(found["seeds"]) == 5
    assert len(found["runs"]["0"]["accuracy"]["base"][""]["right"]) == len(found["places"]) == len(PLACES)
    page = demo_tables.page(results("regimes"), found, results("base"))
    assert page == (ROOT / "docs" / "demo.md").read_text()


def test_the_base_is_made_of_printed_characters(threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_base.py", "--steps", "2", "--batch", "8", "--out", str(tmp_path)])
    demo_base.main()
    shapes = [{name: w.shape for name, w in load_file(file).items()} for file in (tmp_path / BASE.name, BASE)]
    assert shapes[0] == shapes[1]
    heads = [Head.load(file) for file in (tmp_path / HEAD.name, HEAD)]
    assert [(h.classes, h.scale, h.kind, h.rows.shape) for h in heads[:1]] == [
        (h.classes, h.scale, h.kind, h.rows.shape) for h in heads[1:]
    ]
    assert demo_base.CHARACTERS[:10] == "0123456789"
    images, labels = demo_base.glyphs()
    assert len(images) == len(labels) == len(demo_base.text_fonts()) * len(demo_base.CHARACTERS)
    assert float(images.amax(dim=(1, 2, 3)).min()) > 0.5  # no font draws nothing
    shape = tuple(demo_base.distort(images[:4], torch.Generator().manual_seed(0)).shape)
    assert shape == (4, 1, 16, 16)
    assert "sklearn" not in (ROOT / "benchmarks" / "demo_base.py").read_text()
    assert BASE.stat().st_size < 4 * 10**6
