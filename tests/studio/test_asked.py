"""What the page sends is checked here too, and every refusal has the control that it belongs to."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

from prefmerge.merging.recipe import Recipe
from prefmerge.methods import METHODS
from prefmerge.methods.parameters import PREFERENCE, SCALE
from prefmerge.preference import Preference
from prefmerge.studio.asked import Refused, offered, read_asked, recipe_of
from prefmerge.studio.controls import methods, used
from prefmerge.studio.front import UNITS, grid, in_units
from tests.studio.conftest import NAMES

START = Recipe(base="base", tasks=[{"path": name, "name": name} for name in NAMES])


def asked(dials: Any = (0.5, 0.3, 0.2), method: Any = "tunable_magmax", **values: Any) -> dict[str, Any]:
    return {"dials": list(dials) if isinstance(dials, tuple) else dials, "method": method, "values": values}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (asked((math.nan, 0.5, 0.5)), "dial-0", "the dial of 'cars': expected a finite number"),
        (asked(("NaN", 0.5, 0.5)), "dial-0", "expected a finite number such as 0.8 or 4/5, found 'NaN'"),
        (asked((0.5, math.inf, 0.5)), "dial-1", "expected a finite number"),
        (asked((0.5, "1e999999999", 0.5)), "dial-1", "is beyond any share"),
        (asked((1.5, -0.5, 0)), "dial-0", "is 1.5; expected a number from 0 to 1"),
        (asked((0, 1.1, -0.1)), "dial-1", "is 1.1; expected a number from 0 to 1"),
        (asked((True, 0, 0)), "dial-0", "expected a number, found 'True'"),
        (asked(([], 0.5, 0.5)), "dial-0", "expected a number, found '[]'"),
        (asked((0.5, 0.3, 0.1)), "dials", "the dials sum to 0.9; expected 1"),
        (asked((0.5, 0.5)), "dials", "expected 3 dials, one for each task, found 2"),
        (asked("all"), "dials", "expected 3 dials, one for each task, found none"),
        (asked(method="tunable_magmix"), "method", "Did you mean 'tunable_magmax'?"),
        (asked(method=None), "method", "method 'None' is not known"),
        (asked(method="slerp"), "method", "slerp merges exactly 1 task with the base, found 3"),
        (asked(scale="nan"), "scale", "expected a finite number, found 'nan'"),
        (asked(scale="1e39"), "scale", "expected a number that float32 holds"),
        (asked(scale="9" * 501), "scale", "a text of at most 500 characters"),
        (asked(scale=1), "scale", "expected a text"),
        (asked(selection="best"), "selection", "expected paper, optimal, printed or released"),
        (asked(preference="@/etc/passwd"), "method", "tunable_magmax has no parameter 'preference'"),
        (asked(exclude="*"), "method", "tunable_magmax has no parameter 'exclude'"),
        (asked(method="ties", normalize="perhaps"), "normalize", "expected true or false, found 'perhaps'"),
        (asked(method="linear", weights="1, 2"), "weights", "expected 3 numbers with commas between them"),
        (asked(method="linear", weights="1, 2, x"), "weights", "expected a finite number, found 'x'"),
        ([], "", "expected a JSON object"),
        ({**asked(), "values": []}, "", "expected the parameters by name"),
    ],
)
def test_what_makes_no_sense_is_refused_beside_its_control(body: Any, field: str, words: str):
    with pytest.raises(Refused) as caught:
        read_asked(body, NAMES)
    assert words in str(caught.value)
    assert caught.value.field == field


def test_what_the_method_would_ignore_is_refused_beside_its_control():
    with pytest.raises(Refused, match="--passes has no use with selection optimal") as caught:
        recipe_of(START, read_asked(asked(passes="3", selection="optimal"), NAMES))
    assert caught.value.field == "passes"


def test_dials_and_values_are_the_recipe_exactly():
    recipe = recipe_of(START, read_asked(asked((0.57, "0.43", 0), strength="0.1"), NAMES))
    preference = recipe[PREFERENCE]
    assert isinstance(preference, Preference)
    assert [str(share) for share in preference.shares(NAMES)] == ["57/100", "43/100", "0"]
    assert used(recipe)["strength"] == "0.1"
    weighed = recipe_of(START, read_asked(asked(method="linear", weights="1, 0, 0.5", normalize="false"), NAMES))
    assert used(weighed)["weights"] == "1, 0, 0.5"
    assert used(weighed)["normalize"] == "false"


def test_what_the_page_leaves_alone_stays_the_recipes():
    start = START.with_overrides(scale="0.25", strength="0.5")
    recipe = recipe_of(start, read_asked(asked(strength=" "), NAMES))
    assert (recipe[SCALE], used(recipe)["strength"]) == (0.25, "0.5")


def test_every_declared_parameter_of_every_method_has_a_control():
    for method in methods(3):
        entry = METHODS[method["name"]]
        names = [one["name"] for one in method["parameters"]]
        hidden = {one.name for one in entry.parameters} - set(names)
        assert hidden <= {"preference", "base_weight"}
        assert method["dials"] == entry.honours(PREFERENCE)
    assert {one["name"] for one in methods(1)} - {one["name"] for one in methods(3)} >= {"slerp", "arcee_fusion"}
    assert "slerp" not in {one["name"] for one in methods(3)}


@pytest.mark.parametrize("method", [one["name"] for one in methods(3)])
def test_every_parameter_takes_what_it_says_that_it_is(method: str):
    """The text that the page shows as what is used can be typed into the control."""
    plain = recipe_of(START, read_asked(asked(method=method), NAMES))
    texts = {name: text for name, text in used(plain).items() if name != "passes"}
    assert set(texts) <= {one.name for one in offered(method)}
    assert used(recipe_of(START, read_asked(asked(method=method, **texts), NAMES))) == used(plain)


def test_the_grid_of_the_front_is_around_the_dials():
    whole = read_asked(asked((0.8, 0.1, 0.1), scale="0.6"), NAMES)
    groups = grid(whole, NAMES, "0.6")
    assert groups[0][0].dials == whole.dials
    assert groups[0][0].values == whole.values
    points = [(one.dials, one.values["scale"]) for group in groups for one in group]
    assert len(set(points)) == len(points)
    assert all(len({one.dials for one in group}) == 1 for group in groups)
    assert all(sum(in_units(one.dials)) == UNITS and sum(one.dials) == 1 for group in groups for one in group)
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1)} <= {dials for dials, _ in points}
    (alone,) = grid(read_asked(asked(method="average"), NAMES), NAMES, "1")
    assert len({one.values["scale"] for one in alone}) == len(alone) > 5
