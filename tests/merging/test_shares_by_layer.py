"""Preferences that differ from layer to layer: what may be written, shares and exact budgets, receipts."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge import Preference, Receipt, merge, merge_state_dicts, plan, verify
from prefmerge.errors import MethodError, PreferenceError, PrefmergeError
from prefmerge.merging.api import run
from prefmerge.merging.layers import depths
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.merging.recipe_text import recipe_text
from prefmerge.methods.by_layer import ByLayer
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.preference import budgets

GOLDEN = Path(__file__).parents[1] / "golden"
BASE, CARS, BIRDS = (GOLDEN / f"deep_{name}" for name in ("base", "cars", "birds"))
NAMES = ["deep_cars", "deep_birds"]
LISTED = f"base_model: {BASE}\nmodels: [{{model: {CARS}}}, {{model: {BIRDS}}}]\n"
EARLY, LATE = {"deep_cars": "0.9", "deep_birds": "0.1"}, {"deep_cars": "0.2", "deep_birds": "0.8"}


def shares(written: Any, name: str, depth: Fraction) -> tuple[Fraction, ...]:
    """By a second way: each preference to shares, then the line through the two that are nearest."""
    rules = PREFERENCE.read(written)
    assert isinstance(rules, ByLayer)
    for part, values in rules.rules:
        if part is None or part in name:
            each = [one.shares(NAMES) for one in values]
            at = depth * (len(each) - 1)
            low = min(int(at), max(len(each) - 2, 0))
            high = min(low + 1, len(each) - 1)
            return tuple(a + (at - low) * (b - a) for a, b in zip(each[low], each[high], strict=True))
    return (Fraction(1, 2),) * 2


@pytest.mark.parametrize(
    ("written", "rules"),
    [
        ([EARLY, LATE], [(None, [EARLY, LATE])]),
        (["deep_cars=1,deep_birds=3", "uniform"], [(None, ["deep_cars=1,deep_birds=3", "uniform"])]),
        ([[1, 3], [3, 1]], [(None, [[1, 3], [3, 1]])]),
        ([Preference.geometric(2), "0.5,0.5"], [(None, ["alpha:2", "0.5,0.5"])]),
        ([{"filter": "attn", "value": "alpha:2"}, {"value": [1, 3]}], [("attn", ["alpha:2"]), (None, [[1, 3]])]),
        ({"filter": "mlp", "value": [EARLY, LATE]}, [("mlp", [EARLY, LATE])]),
        ([{"filter": "*", "value": [[1, 3], "uniform"]}], [(None, [[1, 3], "uniform"])]),
    ],
)
def test_what_may_be_written(written: Any, rules: list[tuple[str | None, list[Any]]]) -> None:
    read = PREFERENCE.read(written)
    expected = tuple((part, tuple(map(PREFERENCE.kind.read, values))) for part, values in rules)
    assert read == ByLayer(expected)
    assert PREFERENCE.read(json.loads(json.dumps(PREFERENCE.to_json(read)))) == read


@pytest.mark.parametrize(
    ("written", "one"),
    [
        ([0.8, 0.2], "0.8,0.2"),
        (["80%", "20%"], "0.8,0.2"),
        ({"value": 0.8, "filter": 0.2}, "value=0.8,filter=0.2"),
        ({"cars": 1}, "cars=1"),
        ("alpha:2", "alpha:2"),
    ],
)
def test_what_is_still_one_preference(written: Any, one: str) -> None:
    read = PREFERENCE.read(written)
    assert isinstance(read, Preference)
    assert read.describe() == one


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["cars=0.8", "birds=0.2"], "expected shares by name as one text, 'cars=0.8,birds=0.2', found a list of texts"),
        ([EARLY, "alpha:x"], "expected a finite number"),
        ([{"filter": 3, "value": "uniform"}], "expected a part of tensor names as the filter"),
        ([{"value": "uniform"}, [1, 2]], "expected a value, a list of values over the layers"),
        ([{"value": []}], "every share is zero"),
        ([Preference.counts([1, 2]), "uniform"], "expected shares, found counts"),
    ],
)
def test_what_makes_no_sense(written: Any, said: str) -> None:
    with pytest.raises((ValueError, PreferenceError), match=said):
        PREFERENCE.read(written)


@pytest.mark.parametrize("selection", ["optimal", "paper", "printed", "released"])
@pytest.mark.parametrize(
    "written",
    [[EARLY, LATE], [{"filter": "mlp", "value": [[3, 1], "alpha:3", [0, 1]]}], [[0, 1], [1, 0], {"deep_cars": 1}]],
)
def test_every_tensor_has_exactly_its_budget(written: Any, selection: Any, tmp_path: Path) -> None:
    receipt = merge(BASE, [CARS, BIRDS], tmp_path / "out", preference=written, selection=selection)
    merged = {name: tensor for name, tensor in receipt.tensors.items() if tensor.role == "merged"}
    where = depths(receipt.tensors)
    asked = {
        name: budgets(
            shares(written, name, where.get(name, Fraction(0))),
            int(np.prod(tensor.shape)),
            also_zero=selection == "released",
        )
        for name, tensor in merged.items()
    }
    assert {name: tensor.asked for name, tensor in merged.items()} == asked
    assert {name: tensor.owned for name, tensor in merged.items()} == asked
    assert len({tensor.asked for tensor in merged.values()}) > 3
    assert receipt.shares is None
    assert receipt.totals.asked == tuple(map(sum, zip(*asked.values(), strict=True)))


def test_every_layer_is_as_if_it_were_merged_with_its_own_preference(tmp_path: Path) -> None:
    middle = {name: (Fraction(EARLY[name]) + Fraction(LATE[name])) / 2 for name in NAMES}
    each = [EARLY, middle, LATE]
    merge(BASE, [CARS, BIRDS], tmp_path / "out", preference=[EARLY, LATE])
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for layer, preference in enumerate(each):
        merge(BASE, [CARS, BIRDS], tmp_path / f"{layer}", preference=preference)
        alone = load_file(tmp_path / f"{layer}" / "model.safetensors")
        own = [name for name in merged if f"layers.{layer}." in name or (layer == 0 and "layers" not in name)]
        assert own
        for name in own:
            assert np.array_equal(merged[name], alone[name]), name


def test_a_receipt_merges_again(tmp_path: Path) -> None:
    (tmp_path / "late.json").write_text(json.dumps({"deep_cars": 0.2, "deep_birds": 0.8}))
    (tmp_path / "recipe.yaml").write_text(
        f"merge_method: tunable_magmax\n{LISTED}parameters:\n  prefer:\n"
        "  - {filter: self_attn, value: [{deep_cars: 0.9, deep_birds: 0.1}, '@late.json']}\n  - {value: 'alpha:2'}\n"
        "  strength: [0, 1]\n  toward_last: [{filter: mlp, value: 0.5}]\n  carry: 0.25\n  selection: paper\n"
    )
    receipt = run(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    assert receipt.preference == ("deep_cars=0.9,deep_birds=0.1 to deep_cars=0.2,deep_birds=0.8 in self_attn; alpha:2")
    assert Receipt.load(tmp_path / "out" / "receipt.json").recipe == receipt.recipe
    assert verify(tmp_path / "out", rerun=True).skipped == ()
    again = recipe_text(receipt)
    assert again is not None
    again = again.replace(f": {BASE.name}\n", f": {BASE}\n")
    for path in (CARS, BIRDS):
        again = again.replace(f"model: {path.name}\n", f"model: {path}\n")
    (tmp_path / "again.yaml").write_text(again)
    assert run(read_recipe(tmp_path / "again.yaml"), tmp_path / "again").fingerprint == receipt.fingerprint


def test_the_command_line_takes_a_file_of_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps([EARLY, LATE]))
    first = merge(BASE, [CARS, BIRDS], tmp_path / "a", preference=f"@{tmp_path / 'rules.json'}")
    second = merge(BASE, [CARS, BIRDS], tmp_path / "b", preference=[EARLY, LATE])
    assert first.fingerprint == second.fingerprint
    assert first.recipe == second.recipe


def test_where_no_rule_holds_all_tasks_have_the_same(tmp_path: Path) -> None:
    rules = [{"filter": "mlp", "value": {"deep_cars": 1}}]
    receipt = merge(BASE, [CARS, BIRDS], tmp_path / "out", preference=rules)
    for name, tensor in receipt.tensors.items():
        if tensor.role == "merged":
            assert tensor.owned is not None
            assert (tensor.owned[1] == 0) == ("mlp" in name), name
    assert any("does not mention deep_birds" in note for note in receipt.notes) is False


def test_a_plan_has_the_budgets_of_all_tensors(tmp_path: Path) -> None:
    with plan(BASE, [CARS, BIRDS], preference=[EARLY, LATE]) as planned:
        most = planned.most_budgets()
        assert [task["share"] for task in planned.to_json()["tasks"]] == [None, None]
    receipt = merge(BASE, [CARS, BIRDS], tmp_path / "out", preference=[EARLY, LATE])
    assert receipt.totals.asked == most
    with plan(BASE, [CARS, BIRDS], preference=[EARLY, LATE], strength=[1, 0.5]) as planned:
        assert planned.most_budgets() is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"preference": [EARLY, LATE]}, "preference"),
        ({"strength": [0, 1]}, "strength"),
        ({"toward_last": [0, 1], "sequential": True}, "toward_last"),
        ({"method": "ties", "density": [[0.1, 0.9], 0.5]}, "density"),
    ],
)
def test_one_choice_over_the_model_cannot_differ_by_layer(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError) as caught:
        merge(BASE, [CARS, BIRDS], tmp_path / "out", scope="model", **given)
    assert str(caught.value) == (
        f"{named} differs from layer to layer, and with --scope model one choice is made over all layers. Use --scope "
        "tensor, or give one value."
    )


def test_a_task_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(PrefmergeError, match=r"the preference names 'car', but the tasks are deep_cars, deep_birds\."):
        merge(BASE, [CARS, BIRDS], tmp_path / "out", preference=["uniform", "car=1,deep_birds=2"])


def test_increments_by_layer() -> None:
    states = [{f"layers.{i}.w": np.full(4, 10.0 * i + value, np.float32) for i in range(3)} for value in (0, 1, 3)]
    given = {"method": "increments", "names": ["cars", "birds"], "sequential": True}
    merged, _ = merge_state_dicts(
        states[0], states[1:], preference=["cars=1,birds=0", "cars=0,birds=1"], start=0, boost=[1, 3], **given
    )
    # shares (1, 0), (1/2, 1/2), (0, 1); boost 1, 2, 3; what the tasks changed: 1 and 2
    assert [float(merged[f"layers.{i}.w"][0]) for i in range(3)] == [1.0, 13.0, 26.0]
