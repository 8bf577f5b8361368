"""The comparison with mergekit at toy size: what is counted, what a page says, and what is done without mergekit.

Where PREFMERGE_MERGEKIT names an environment that has it (a folder with bin/mergekit-yaml), mergekit takes part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import against_mergekit, against_mergekit_tables, common, layouts, mergekit_program, mergekit_recipes
from benchmarks.make_checkpoints import LANGUAGE_MODELS, shapes_of
from tests.benchmarks.in_process import measured_here

pytest.importorskip("torch", reason="the comparison makes models and reads bfloat16 with it")
pytest.importorskip("transformers", reason="the comparison makes models with it")

ENVIRONMENT = os.environ.get("PREFMERGE_MERGEKIT")
with_mergekit = pytest.mark.skipif(not ENVIRONMENT, reason="PREFMERGE_MERGEKIT names no environment with mergekit")


def compare(folder: Path, *arguments: str) -> tuple[dict[str, Any], Path, Path]:
    """The result, the page and the README of a comparison at toy size."""
    result, docs, readme = (folder / name for name in ("result.json", "speed.md", "README.md"))
    docs.write_text("# Speed\n")
    readme.write_text("# prefmerge\n\n## Speed and memory\n\n## Methods\n")
    scratch = folder / "scratch"
    pages = ["--docs", str(docs), "--readme", str(readme)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(common, "run_measured", measured_here(1))
        against_mergekit.main(["--toy", "--workdir", str(scratch), "--result", str(result), *pages, *arguments])
    assert list(scratch.iterdir()) == [], "what was made is removed"
    return json.loads(result.read_text()), docs, readme


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Path]:
    """A comparison without mergekit."""
    return compare(tmp_path_factory.mktemp("alone"), "--without-mergekit")


def test_without_mergekit_prefmerge_is_measured(alone: tuple[dict[str, Any], Path, Path]) -> None:
    data, docs, _ = alone
    assert [measured["dtype"] for measured in data["speed"]["sets"]] == ["bfloat16", "float32"]
    for measured in data["speed"]["sets"]:
        assert [row["method"] for row in measured["rows"]] == list(mergekit_recipes.METHODS)
        assert {row["tool"] for row in measured["rows"]} == {"prefmerge"}
        for row in measured["rows"]:
            assert row["seconds"]["median"] > 0 < row["processor_seconds"]["median"]
            assert row["resident_mb"] >= row["anonymous_mb"] > 5
    assert "mergekit was left out." in docs.read_text()


def test_what_is_rounded_and_which_layouts_run(alone: tuple[dict[str, Any], Path, Path]) -> None:
    data, _, _ = alone
    for row in data["rounding"]["rows"]:
        # 16 bits are rounded once; float32 twice, as task vectors are float32 too.
        assert row["wrong"] <= row["elements"] * (0.001 if row["dtype"] == "bfloat16" else 0.1)
    assert layouts.counts(data["layouts"]["rows"], "prefmerge") == {"right": 9, "wrong": 0, "refused": 0}


def test_tables_stand_under_the_readmes_heading_and_below_the_page(alone: tuple[dict[str, Any], Path, Path]) -> None:
    data, docs, readme = alone
    mark = against_mergekit_tables.MARK
    assert docs.read_text().startswith(f"# Speed\n\n{mark}\n\n## Against mergekit\n")
    short = against_mergekit_tables.short_table(data)
    assert readme.read_text() == f"# prefmerge\n\n## Speed and memory\n\n{mark}\n\n{short}\n{mark}\n\n## Methods\n"
    for page, text in ((docs, against_mergekit_tables.tables(data)), (readme, short)):
        assert against_mergekit_tables.placed(page.read_text(), text) == page.read_text()


def test_a_part_is_measured_again_and_the_others_stay(
    alone: tuple[dict[str, Any], Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _, _ = alone
    monkeypatch.setattr(against_mergekit, "part", lambda name, *_: {"rows": [name]})
    (tmp_path / "result.json").write_text(json.dumps(data))
    arguments = ["--toy", "--without-mergekit", "--parts", "rounding", "--workdir", str(tmp_path / "scratch")]
    against_mergekit.main([*arguments, "--result", str(tmp_path / "result.json")])
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["rounding"]["rows"] == ["rounding"]
    assert (again["speed"], again["layouts"]) == (data["speed"], data["layouts"])


@with_mergekit
def test_mergekit_takes_part(tmp_path: Path) -> None:
    data, docs, readme = compare(tmp_path, "--mergekit", str(ENVIRONMENT))
    assert data["speed"]["mergekit"]["mergekit"] == mergekit_program.VERSIONS["mergekit"]
    first, second = data["speed"]["sets"]
    assert {row["tool"] for row in first["rows"]} == {"prefmerge", "mergekit", "mergekit, float32"}
    assert {row["tool"] for row in second["rows"]} == {"prefmerge", "mergekit"}
    wrong = {(row["dtype"], row["step"], row["method"], row["tool"]): row["wrong"] for row in data["rounding"]["rows"]}
    for method in ("task_arithmetic", "ties"):
        assert wrong["bfloat16", 1e-3, method, "mergekit"] > wrong["bfloat16", 1e-3, method, "prefmerge"]
    assert layouts.counts(data["layouts"]["rows"][:3], "mergekit")["right"] == 3  # Llama
    assert "mergekit, float32" in docs.read_text()
    assert "CPU seconds, mergekit" in readme.read_text()


def test_an_environment_without_mergekit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no bin/mergekit-yaml"):
        mergekit_program.there(tmp_path)


def test_a_failed_installation_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> None:
        raise RuntimeError("mergekit could not be installed: no index\nand more")

    monkeypatch.setattr(against_mergekit, "installed", fails)
    monkeypatch.setattr(against_mergekit, "part", lambda name, *_: {})
    result = tmp_path / "result.json"
    against_mergekit.main(["--toy", "--parts", "speed", "--workdir", str(tmp_path / "s"), "--result", str(result)])
    note = json.loads(result.read_text())["speed"]["note"]
    assert note == "mergekit was left out: mergekit could not be installed: no index"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The float64 result of a tiny ViT, stored, and what is right."""
    folder = tmp_path_factory.mktemp("vit")
    folders = layouts.make("ViT, classifier", folder)
    layouts.define("ties", folders, folder / "exact")
    return folder / "exact", layouts.accepted("ViT, classifier", "ties", folders, folder / "exact")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tensors: tensors.pop("vit.embeddings.cls_token"), "1 of 40 tensors are missing, such as vit.emb"),
        (lambda tensors: tensors["classifier.bias"].__setitem__(0, 7.0), "classifier.bias is .* from the float64"),
    ],
)
def test_an_output_that_is_not_right_is_noticed(
    vit: tuple[Path, list[dict[str, Any]]], tmp_path: Path, change: Any, why: str
) -> None:
    exact, results = vit
    assert layouts.judge("ViT, classifier", exact, results, None) == {"outcome": "right"}
    shutil.copytree(exact, tmp_path / "out")
    tensors = load_file(exact / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    said = layouts.judge("ViT, classifier", tmp_path / "out", results, None)
    assert said["outcome"] == "wrong"
    assert re.search(why, said["why"])
    assert layouts.judge("ViT, classifier", tmp_path / "nowhere", results, None)["outcome"] == "wrong"
    assert layouts.judge("ViT, classifier", exact, results, "an error") == {"outcome": "refused", "why": "an error"}


def test_language_models_have_the_released_shapes() -> None:
    shapes = shapes_of("qwen2-0.5b")
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 494_032_768  # the released model's count
    assert shapes["model.layers.23.self_attn.k_proj.weight"] == (128, 896)
    assert set(LANGUAGE_MODELS) >= {against_mergekit.Sizes.model, against_mergekit.TOY.model}


def test_the_pages_say_what_was_measured() -> None:
    data = json.loads((common.RESULTS / "against_mergekit.json").read_text())
    page = (common.ROOT / "docs" / "speed.md").read_text()
    assert against_mergekit_tables.placed(page, against_mergekit_tables.tables(data)) == page


def test_the_readme_says_what_was_measured() -> None:
    data = json.loads((common.RESULTS / "against_mergekit.json").read_text())
    readme = (common.ROOT / "README.md").read_text()
    assert against_mergekit_tables.placed(readme, against_mergekit_tables.short_table(data)) == readme


def test_a_readme_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither the marks"):
        against_mergekit_tables.placed("# prefmerge\n", "text", against_mergekit_tables.HEADING)
