"""Files of several recipes: names, order, what is made where, and what is refused before anything is merged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import prefmerge
from prefmerge.errors import CheckpointNotFound, OutputExists, RecipeError, UsageError
from prefmerge.merging.recipe_documents import read_documents

GOLDEN = Path(__file__).parents[1] / "golden"
BASE, CARS, BIRDS = (GOLDEN / f"deep_{name}" for name in ("base", "cars", "birds"))
HALF = f"name: half\nmerge_method: slerp\nbase_model: {CARS}\nmodels: [{{model: {BIRDS}}}]\n"
LAST = f"merge_method: task_arithmetic\nbase_model: {BASE}\nmodels: [{{model: half}}, {{model: {CARS}}}]\n"


def write(tmp_path: Path, *texts: str) -> Path:
    (tmp_path / "recipes.yaml").write_text("---\n".join(texts))
    return tmp_path / "recipes.yaml"


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("texts", [(HALF, LAST), (LAST, HALF)], ids=["in order", "in the other order"])
def test_a_model_that_another_document_makes_is_made_before(texts: tuple[str, str], tmp_path: Path) -> None:
    receipts = prefmerge.merge_recipes(write(tmp_path, *texts), tmp_path / "out")
    assert list(receipts) == ["half", None]
    half, cars, base = weights(tmp_path / "out-parts" / "half"), weights(CARS), weights(BASE)
    for name, values in weights(tmp_path / "out").items():
        np.testing.assert_allclose(values, half[name] + cars[name] - base[name], rtol=0, atol=1e-6)
    assert receipts[None].tasks == ("half", "deep_cars")
    told = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert told["inputs"]["tasks"][0]["path"] == "../out-parts/half"
    for out in (tmp_path / "out-parts" / "half", tmp_path / "out"):
        assert prefmerge.verify(out, inputs=True, rerun=True).skipped == ()


def test_where_all_have_names_each_goes_into_the_folder(tmp_path: Path) -> None:
    file = write(tmp_path, HALF, f"name: last\n{LAST}")
    prefmerge.merge_recipes(file, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["half", "last"]
    with pytest.raises(OutputExists, match=r"out/half: already exists"):
        prefmerge.merge_recipes(file, tmp_path / "out")
    prefmerge.merge_recipes(file, tmp_path / "out", force=True)
    with pytest.raises(UsageError, match="2 models go there, so it must be a folder"):
        prefmerge.merge_recipes(file, tmp_path / "out.safetensors")


def test_slices_of_a_model_that_another_document_makes(tmp_path: Path) -> None:
    rows = "".join(f"- sources: [{{model: half, layer_range: {layers}}}]\n" for layers in ([0, 3], [1, 3]))
    prefmerge.merge_recipes(write(tmp_path, HALF, f"merge_method: passthrough\nslices:\n{rows}"), tmp_path / "out")
    half, stack = weights(tmp_path / "out-parts" / "half"), weights(tmp_path / "out")
    name = "model.layers.{}.mlp.up_proj.weight"
    assert [np.array_equal(stack[name.format(i)], half[name.format(j)]) for i, j in enumerate((0, 1, 2, 1, 2))] == [
        True
    ] * 5
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            (HALF.replace(str(BIRDS), "last"), f"name: last\n{LAST}"),
            r"in a circle: 'half' needs 'last'; 'last' needs 'half'\. Take one of them out\.$",
        ),
        ((HALF.replace(str(BIRDS), "half"), LAST), r"in a circle: 'half' needs 'half'; the document without a name"),
        ((HALF, HALF), r"line 6: name: 'half' is the name of the document of line 1 too\.$"),
        ((LAST, LAST), r"line 5: a second document without a name, after that of line 1\."),
        ((HALF.replace("half", "../half"), LAST.replace("half", str(CARS))), r"name: '\.\./half' cannot be the name"),
        (
            (HALF.replace("slerp", "slrep"), LAST.replace("task_arithmetic", "tise")),
            r"2 faults\.\n  line 1?2: .*\n  line 6: ",
        ),
    ],
)
def test_refused_before_anything_is_merged(texts: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        prefmerge.merge_recipes(write(tmp_path, *texts), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipes.yaml"]


def test_a_name_that_no_document_has_is_looked_for_as_a_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"line 8: models\[0\]\.model: 'haf' is neither in"):
        read_documents(write(tmp_path, HALF, LAST.replace("half", "haf")), tmp_path / "out")


def test_one_document_goes_to_the_output_whatever_its_name(tmp_path: Path) -> None:
    assert list(prefmerge.merge_recipes(write(tmp_path, HALF), tmp_path / "out")) == ["half"]
    assert (tmp_path / "out" / "receipt.json").is_file()
    assert prefmerge.read_recipe(tmp_path / "recipes.yaml").method == "slerp"


def test_reading_one_recipe_of_several_says_what_reads_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has 2 documents, and this reads one\. .*prefmerge\.merge_recipes\("):
        prefmerge.read_recipe(write(tmp_path, HALF, LAST))


def test_a_document_with_nothing_to_merge_is_wrong_before_anything_is_merged(tmp_path: Path) -> None:
    good = f"name: half\nmerge_method: linear\nmodels: [{{model: {BASE}}}, {{model: {CARS}}}]\n"
    bad = f"merge_method: ties\nbase_model: {BASE}\nmodels: [{{model: {BASE}}}]\n"
    (tmp_path / "recipes.yaml").write_text(f"{good}---\n{bad}")
    with pytest.raises(RecipeError, match="the document without a name: no model but the base is listed"):
        prefmerge.merge_recipes(tmp_path / "recipes.yaml", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["recipes.yaml"]


def test_every_output_has_a_report_and_is_cut_as_asked(tmp_path: Path) -> None:
    prefmerge.merge_recipes(write(tmp_path, HALF, LAST), tmp_path / "plain")
    prefmerge.merge_recipes(write(tmp_path, HALF, LAST), tmp_path / "out", report=True, max_shard_size=2000)
    for plain, cut in (("plain", "out"), ("plain-parts/half", "out-parts/half")):
        assert not (tmp_path / plain / "report.html").exists()
        assert "What was merged" in (tmp_path / cut / "report.html").read_text()
        shards = sorted((tmp_path / cut).glob("*.safetensors"))
        assert len(shards) > 1
        together = {name: values for shard in shards for name, values in load_file(shard).items()}
        expected = weights(tmp_path / plain)
        assert together.keys() == expected.keys()
        assert all(np.array_equal(together[name], values) for name, values in expected.items())
        assert prefmerge.verify(tmp_path / cut).passed


def test_one_report_of_one_recipe_goes_where_it_is_said(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    prefmerge.merge_recipes(write(tmp_path, HALF), tmp_path / "one", report=page)
    assert "What was merged" in page.read_text()
    with pytest.raises(UsageError, match=r"page\.html is one file, and .*recipes\.yaml has several recipes"):
        prefmerge.merge_recipes(write(tmp_path, HALF, LAST), tmp_path / "out", report=page)
    assert not list(tmp_path.glob("out*"))


def test_an_output_that_cannot_be_cut_is_refused_before_anything_is_merged(tmp_path: Path) -> None:
    file = write(tmp_path, HALF, LAST)
    with pytest.raises(UsageError, match="is one file, and --max-shard-size cuts the weights of a folder"):
        prefmerge.merge_recipes(file, tmp_path / "out.safetensors", max_shard_size="1MB")
    assert [path.name for path in tmp_path.iterdir()] == ["recipes.yaml"]
