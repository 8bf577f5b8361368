"""What is searched, what stands for it, and that what is printed is what is merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefmerge.errors import PrefmergeError, UsageError
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.parameters import METHOD, every, searchable
from prefmerge.methods.parameters import Choices
from prefmerge.preference import Preference
from prefmerge.target.search.space import PAPER, Space, rounded
from tests.methods.problems import state_dicts

NAMES = ("cars", "birds", "digits")
FIRST = Preference.parse("0.6,0.3,0.1")


def middle(space: Space, tasks: int = 3) -> dict[str, float | str]:
    return {
        name: str(found[-1]) if isinstance(found[0], str) else (float(found[0]) + float(found[1])) / 2
        for name, found in space.dimensions(tasks).items()
    }


def test_parsing():
    assert Space.parse("preference, scale") == Space(("preference", "scale"), {})
    assert Space.parse("scale,selection=optimal") == Space(("scale",), {"selection": "optimal"})
    assert Space.parse("scale,exclude=head-*").fixed == {"exclude": "head-*"}


def test_the_default_searches_the_dials_that_cost_nothing():
    assert list(Space().dimensions(3)) == ["share 1", "share 2", "share 3", "scale", "strength", "carry"]
    settings = Space().settings(middle(Space()), NAMES, FIRST)
    assert {name: value for name, value in settings.items() if name != "preference"} == {
        "method": "tunable_magmax",
        "selection": "paper",
        "importance": "magnitude",
        "scale": "0.8",
        "strength": "0.5",
        "carry": "0.5",
    }


def test_what_is_not_searched_is_fixed_or_named_by_the_space():
    space = Space(("scale",), {"selection": "optimal", "strength": "0.25"})
    settings = space.settings({"scale": 0.12345}, NAMES, FIRST)
    assert settings == {
        "method": "tunable_magmax",
        "preference": FIRST,
        "scale": "0.123",
        "selection": "optimal",
        "importance": "magnitude",
        "strength": "0.25",
    }
    starts = space.starts(NAMES, FIRST)
    assert [one.settings.get("strength") for one in starts] == ["0.25", "0.25", "0", "0"]
    assert [one.params for one in starts] == [{"scale": 0.5}, {"scale": 1.0}, None, None]  # MAGMAX lies outside


@pytest.mark.parametrize(
    "text", [None, "preference", "scale,selection=optimal", "selection,importance", "method,carry"]
)
@pytest.mark.parametrize("otherwise", [PAPER, {"selection": "optimal", "importance": "step", "scale": "1"}])
def test_no_trial_relies_on_what_merge_does_by_default(text: str | None, otherwise: dict[str, str]):
    space = Space.parse(text, otherwise)
    named = {name: value for name, value in otherwise.items() if name not in (*space.searched, *space.fixed)}
    first = space.settings({**middle(space), "method": "tunable_magmax"}, NAMES, FIRST)
    assert first.items() >= named.items()
    for start in space.starts(NAMES, FIRST):
        importance = {"importance": "magnitude"} if start.what.startswith("MAGMAX") else {}
        assert start.settings.items() >= {**named, **importance}.items()
        assert {"selection", "importance", "scale"} <= start.settings.keys()
    other = Space(tuple({*space.searched, "method"}), space.fixed, otherwise)
    ties = other.settings({**middle(other), "method": "ties"}, NAMES, FIRST)
    assert not {"selection", "importance"} & ties.keys()
    assert ("scale" in ties) == ("scale" in space.searched)  # what the first method takes is nothing to the others


def test_the_paper_form_is_that_of_the_paper():
    assert PAPER == {"selection": "paper", "importance": "magnitude", "scale": "0.5"}
    assert Space().otherwise == Space.parse("scale").otherwise == PAPER
    assert Space().to_json()["otherwise"] == PAPER  # so an interrupted search in another form is another search


@pytest.mark.parametrize(
    "text",
    [
        ",".join(searchable()),
        "preference,scale",
        "scale,method=ties,density=0.3",
        "selection,importance,strength,scale=0.7",
        "method,scale",
        "preference,importance=step",
    ],
)
def test_every_trial_can_be_merged(text: str, tmp_path: Path):
    base, tasks = state_dicts(3)
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", *NAMES)]
    for path, state in zip(paths, (base, *tasks), strict=True):
        save_file(state, path)
    space = Space.parse(text)
    rng = np.random.default_rng(0)
    tried = [one.settings for one in space.starts(NAMES, FIRST)]
    for _ in range(8):
        params = {
            name: str(rng.choice(found)) if isinstance(found[0], str) else rng.uniform(float(found[0]), float(found[1]))
            for name, found in space.dimensions(3).items()
        }
        tried.append(space.settings(params, NAMES, FIRST))
    with Candidates(paths[0], paths[1:]) as candidates:
        models = candidates.models(tried)
        magmax = candidates.model(method="magmax", scale=space.fixed.get("scale", "0.5"))
    found = next(m for one, m in zip(space.starts(NAMES, FIRST), models, strict=False) if one.what.startswith("MAGMAX"))
    assert all(found[name].tobytes() == magmax[name].tobytes() for name in magmax)


def test_starts_stand_inside_the_space():
    space = Space(tuple(searchable()))
    ranges = space.dimensions(3)
    for start in space.starts(NAMES, FIRST):
        assert start.params is not None
        assert start.params.keys() == ranges.keys()
        assert [start.params[f"share {i}"] for i in (1, 2, 3)] == [1.0, 0.5, pytest.approx(1 / 6)]
        for name, found in ranges.items():
            value = start.params[name]
            assert value in found if isinstance(value, str) else float(found[0]) <= value <= float(found[1])
        assert start.params["strength"] == (0.0 if start.what.startswith("MAGMAX") else 1.0)


def test_shares_are_short_decimals_and_small_ones_are_none():
    found = rounded([0.5, 0.004, 0.25], NAMES)
    assert found.describe() == "cars=0.6667,birds=0,digits=0.3333"
    assert rounded([0.0, 0.0, 0.0], NAMES).shares(NAMES) == Preference.uniform().shares(NAMES)
    many = [f"t{i}" for i in range(300)]
    assert all(share > 0 for share in rounded([1.0] * 300, many).shares(many))


def test_more_tasks_than_a_mask_holds_are_selected_optimally():
    names = [f"t{i}" for i in range(65)]
    assert all(one.settings["selection"] == "optimal" for one in Space().starts(names, None))
    assert Space().settings(middle(Space(), 65), names, FIRST)["selection"] == "optimal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to search: name at least one of preference, scale, strength, carry, selection, importance, "),
        ("scale=1", "nothing to search: name at least one of preference, "),
        ("scales", "'scales' cannot be searched; what can is preference, scale, strength, carry, selection, "),
        ("scales", "Did you mean 'scale'?"),
        ("scale,scale=1", "--space names 'scale' twice."),
        ("scale,selection=best", "selection=best: expected paper, optimal, printed or released, found 'best'."),
        ("scale,preference=1", "'preference' is not a setting that can be fixed."),
        ("preference,method=magmax", "preference has no use with method magmax. Leave it out."),
        ("scale,density=0.2", "density has no use with method tunable_magmax. Leave it out."),
        ("scale,metod=ties", "'metod' is not a setting that can be fixed. Did you mean 'method'?"),
        ("scale,method=tie", "method 'tie' is not known"),
    ],
)
def test_a_space_that_makes_no_sense(text: str, message: str):
    with pytest.raises(PrefmergeError) as raised:
        Space.parse(text)
    assert message in str(raised.value)


def test_a_setting_is_not_fixed_and_searched():
    with pytest.raises(UsageError, match=r"^scale is fixed at 1 and searched\. Take one of them out\.$"):
        Space(("scale",), {"scale": "1"})


def test_the_choices_are_settings_of_merge():
    known = {METHOD.name: METHOD, **every()}
    for name, over in searchable().items():
        if isinstance(over, Choices):
            assert [known[name].read(value) for value in over.values] == list(over.values)
