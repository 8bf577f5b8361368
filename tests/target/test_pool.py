"""What is tried: candidates of ordered and unordered tasks, recipes of the user; and their merges, made once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prefmerge import merge
from prefmerge.cli import app
from prefmerge.errors import MethodError, PrefmergeError, RecipeError, UsageError
from prefmerge.merging.api import recipe_of
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.methods.by_layer import ByLayer
from prefmerge.preference import Preference
from prefmerge.target import merges as merging
from prefmerge.target import pool
from prefmerge.target.merges import Merges
from prefmerge.target.pool import DIGITS, INCREMENTS, Candidate, baselines, candidates, rounded
from prefmerge.target.result import command
from tests.merging.test_candidates import NAMES, assert_same, files, read_back

SHARES = np.array([0.7, 0.05, 0.25, 0.0])


def named(found: list[Candidate]) -> dict[str, Candidate]:
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def test_ordered_tasks_have_their_last_checkpoint_and_those_with_a_share():
    found = named(candidates(NAMES, SHARES, True))
    singles = {name: one.task for name, one in found.items() if one.single}
    assert singles == {"checkpoint cars": 0, "checkpoint digits": 2, "last checkpoint": 3}
    assert 10 <= len(found) <= 14
    merged = [one.settings for one in found.values() if not one.single]
    assert sum(one["method"] == "increments" for one in merged) == len(INCREMENTS) == 6
    best = [one for one in merged if one["method"] == "tunable_magmax"]
    assert all((one["selection"], one["importance"]) == ("optimal", "step") for one in best)
    assert [(one["scale"], one.get("carry"), one.get("toward_last")) for one in best] == [
        ("1", None, None),
        ("1.25", None, None),
        ("1", "0.5", None),
        ("1", None, "0.5"),
    ]
    assert all(one["preference"].describe() == "0.7,0.05,0.25,0" for one in merged)


def test_unordered_tasks_have_no_last_one_no_steps_and_no_increments():
    found = named(candidates(NAMES, SHARES, False))
    assert {name: one.task for name, one in found.items() if one.single} == {
        "checkpoint cars": 0,
        "checkpoint digits": 2,
    }
    for one in found.values():
        assert one.settings.get("method") != "increments"
        assert not {"carry", "toward_last", "start", "boost", "drop"} & set(one.settings)
        if one.settings.get("method") == "tunable_magmax":
            assert one.settings["importance"] == "magnitude"  # whatever `merge` does by default
    assert found["mean weighted by shares"].settings["weights"] == ["0.7", "0.05", "0.25", "0"]
    even = candidates([f"t{i}" for i in range(20)], np.full(20, 0.05), False)
    assert [one.task for one in even if one.single] == [0]  # no share above a tenth: the largest, the first of equals


def test_a_share_of_a_tenth_is_too_small_for_a_checkpoint_of_its_own():
    found = candidates(("a", "b", "c"), np.array([0.1, 0.5, 0.4]), True)
    assert [one.task for one in found if one.single] == [1, 2]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_merging_accepts_every_candidate(count: int, ordered: bool):
    names = [f"task-{t:02}" for t in range(count)]
    rng = np.random.default_rng(count)
    for shares in (rng.dirichlet(np.ones(count)), np.eye(count)[0], np.full(count, 1 / count)):
        for one in [*candidates(names, shares, ordered), *baselines(shares, ordered)]:
            if one.single:
                assert one.settings == {}
                assert one.task is not None
                assert -1 <= one.task < count
                continue
            recipe = recipe_of("base", names, names=names, **one.settings)  # raises for what a method ignores
            assert recipe.method == one.settings["method"]
            if recipe.preference is not None:
                found = [float(share) for share in recipe.preference.shares(names)]
                np.testing.assert_allclose(found, shares, atol=count / DIGITS)


def test_the_baselines_are_the_base_and_two_known_rules():
    found = named(baselines(SHARES, True))
    assert list(found) == ["base", "MAGMAX", "Tunable MAGMAX (paper)"]
    assert found["base"].task == -1
    assert found["MAGMAX"].settings == {"method": "magmax", "scale": "0.5"}
    paper = found["Tunable MAGMAX (paper)"].settings
    assert (paper["selection"], paper["importance"], paper["scale"]) == ("paper", "magnitude", "0.5")
    assert paper["preference"].describe() == "0.7,0.05,0.25,0"
    assert baselines(SHARES, False)[1] == Candidate("max_abs", {"method": "max_abs", "scale": "0.5"})


@pytest.mark.parametrize(
    ("shares", "told"),
    [([1 / 3, 2 / 3], "0.3333,0.6667"), ([1.0, 0.0], "1,0"), ([0.99999, 0.00001], "1,0"), ([-1e-9, 1], "0,1")],
)
def test_shares_are_rounded_to_what_is_printed(shares: list[float], told: str):
    assert rounded(np.array(shares)).describe() == told


# Recipes of the user


RECIPE = """\
merge_method: {method}
base_model: base.safetensors
models:
{models}
{rest}
"""


def recipe_file(folder: Path, method: str, rest: str = "", rows: str = "", tasks: tuple[str, ...] = NAMES) -> Path:
    models = "\n".join(f"  - model: {name}.safetensors{rows}" for name in tasks)
    path = folder / "mine.yaml"
    path.write_text(RECIPE.format(method=method, models=models, rest=rest))
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    return files(tmp_path_factory.mktemp("checkpoints"))


WEIGHTED = "\n    parameters: {weight: 0.5, density: 0.25}"


@pytest.mark.parametrize(
    ("method", "rest", "rows"),
    [
        ("tunable_magmax", "parameters: {prefer: 'cars=0.8,birds=0.2', scale: 0.3, selection: optimal}", ""),
        (
            "tunable_magmax",
            "parameters: {prefer: [4, 3, 2, 1], selection: paper, strength: 0.5, passes: 3}\nseed: 5",
            "",
        ),
        ("increments", "parameters: {prefer: 'alpha:2', start: 0.75, boost: 2, drop: 0.25}", ""),
        ("ties", "", WEIGHTED),
        ("ties", "parameters: {density: 0.5, normalize: false, scope: model}", ""),
        ("linear", "parameters: {normalize: false}", "\n    parameters: {weight: 0.3}"),
        ("task_arithmetic", "parameters: {scale: 0.4, int8_mask: true}", ""),
        ("average", "exclude: ['deep.*']\ndtype: float16", ""),
        ("max_abs", "", ""),
    ],
)
def test_a_recipe_of_the_user_is_merged_as_merge_does_it(
    method: str, rest: str, rows: str, checkpoints: tuple[Path, list[Path]], tmp_path: Path
):
    base, tasks = checkpoints
    path = recipe_file(base.parent, method, rest, rows)
    one = candidates(NAMES, SHARES, True, [path])[-1]
    assert one.name == "mine (yours)"
    assert not one.single
    asked, found = read_recipe(path), recipe_of(base, tasks, names=NAMES, **one.settings)
    assert found.settings(NAMES) == asked.settings(NAMES)
    assert found.names == list(NAMES)


def test_a_recipe_that_names_its_tasks_otherwise_speaks_of_them_in_order(checkpoints: tuple[Path, list[Path]]):
    """A run calls its tasks by its own names; the recipe calls them by their files."""
    base, tasks = checkpoints
    path = recipe_file(base.parent, "tunable_magmax", "parameters: {prefer: 'cars=0.8,birds=0.2'}")
    names = ("task-01", "task-02", "task-03", "task-04")
    one = candidates(names, SHARES, True, [path])[-1]
    found = recipe_of(base, tasks, names=names, **one.settings).preference
    assert found is not None
    assert [float(share) for share in found.shares(names)] == [0.8, 0.2, 0, 0]


@pytest.mark.parametrize(
    ("method", "rest", "rows", "tasks", "message"),
    [
        (
            "average",
            "",
            "",
            NAMES[:3],
            "has 3 tasks, and 4 are adapted: cars, birds, digits, signs. List the same tasks in the same order.",
        ),
        (
            "average",
            "",
            "",
            ("birds", "cars", "digits", "signs"),
            "has the tasks birds, cars, digits, signs; they are adapted as cars, birds, digits, signs. List them in "
            "that order.",
        ),
        ("average", "as_task_vector: true", "", NAMES, "makes a task vector, not a model. Leave out as_task_vector."),
        (
            "linear",
            "parameters: {weight: 0.2}",
            "",
            NAMES,
            "gives the base a weight of its own (0.2), which adapt cannot. Leave the base out, and give each model its "
            "own weight.",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    method: str, rest: str, rows: str, tasks: tuple[str, ...], message: str, checkpoints: tuple[Path, list[Path]]
):
    path = recipe_file(checkpoints[0].parent, method, rest, rows, tasks)
    with pytest.raises(UsageError) as error:
        candidates(NAMES, SHARES, True, [path])
    assert str(error.value) == f"--candidate {path}: {message}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", RecipeError), ("merge_method: slerp", RecipeError), ("merge_method: nothing", (RecipeError, MethodError))],
)
def test_files_that_are_no_recipe_are_refused(text: str, kind: type[PrefmergeError], tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(kind, match=r"mine\.yaml"):
        candidates(NAMES, SHARES, True, [path])
    with pytest.raises(RecipeError, match="does not exist"):
        candidates(NAMES, SHARES, True, [tmp_path / "none.yaml"])


def test_no_candidate_is_called_like_another(checkpoints: tuple[Path, list[Path]]):
    path = recipe_file(checkpoints[0].parent, "average")
    assert len(named(candidates(NAMES, SHARES, False, [path]))) == len(candidates(NAMES, SHARES, False)) + 1
    assert pool.SINGLE == 0.1


# The line that is printed


def printed(base: Path, tasks: list[Path], settings: Mapping[str, Any], out: Path) -> str:
    """What `adapt` prints of a candidate of these settings."""
    made: Any = SimpleNamespace(
        source=SimpleNamespace(base=base, checkpoints=tasks),
        chosen=Candidate("one", settings),
        parameters=SimpleNamespace(run=None, checkpoints=(base, *tasks), dtype=None),
    )
    return command(made, str(out))


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("tunable_magmax", "parameters: {prefer: 'cars=0.8,birds=0.2', scope: model}\nseed: 5"),
        ("increments", "parameters: {prefer: 'alpha:2', start: 0.75, boost: 2}"),
        ("average", "exclude: ['deep.*', '*position_ids', 'untou*']\ndtype: float16"),
    ],
)
def test_the_printed_line_makes_the_same_model(
    method: str, rest: str, checkpoints: tuple[Path, list[Path]], tmp_path: Path
):
    base, tasks = checkpoints
    one = candidates(NAMES, SHARES, True, [recipe_file(base.parent, method, rest)])[-1]
    line = shlex.split(printed(base, tasks, one.settings, tmp_path / "typed.safetensors"))
    done = CliRunner().invoke(app, line[1:], prog_name="prefmerge")
    assert done.exit_code == 0, done.stderr
    merge(base, tasks, tmp_path / "asked.safetensors", names=NAMES, **one.settings)
    assert_same(read_back(tmp_path / "typed.safetensors"), read_back(tmp_path / "asked.safetensors"))


@pytest.mark.parametrize(
    ("method", "rest", "rows", "told"),
    [
        ("ties", "", WEIGHTED, "weights 0.5, 0.5, 0.5, 0.5; density 0.25, 0.25, 0.25, 0.25"),
        ("task_arithmetic", "parameters: {normalize: true}", "", "normalize True; weights 1, 1, 1, 1"),
    ],
)
def test_what_no_flag_says_is_told_as_a_recipe(
    method: str, rest: str, rows: str, told: str, checkpoints: tuple[Path, list[Path]]
):
    base, tasks = checkpoints
    one = candidates(NAMES, SHARES, True, [recipe_file(base.parent, method, rest, rows)])[-1]
    assert printed(base, tasks, one.settings, Path("out")) == f"a recipe file with {told}"


# Their merges


SETTINGS: list[Mapping[str, Any]] = [
    one.settings for one in candidates(NAMES, SHARES, True) if not one.single
] + [{"method": "max_abs"}]  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many merges each call of `Candidates.models` makes."""
    calls: list[int] = []
    own = Candidates.models

    def models(self: Candidates, settings: Any) -> Any:
        calls.append(len(settings))
        return own(self, settings)

    monkeypatch.setattr(Candidates, "models", models)
    return calls


def test_each_is_what_merge_writes(checkpoints: tuple[Path, list[Path]], tmp_path: Path, counted: list[int]):
    base, tasks = checkpoints
    merges, told = Merges(base, tasks, NAMES, threads=1), []
    found = dict(merges.each(SETTINGS, lambda *given: told.append(given)))
    assert sorted(found) == list(range(len(SETTINGS)))
    for i, settings in enumerate(SETTINGS):
        out = tmp_path / f"out-{i}.safetensors"
        merge(base, tasks, out, names=NAMES, threads=1, **settings)
        assert_same(dict(found[i]), read_back(out), settings)
    assert counted == [len(SETTINGS)]
    assert told == [(len(SETTINGS), 0)]


def test_each_is_made_once(checkpoints: tuple[Path, list[Path]], counted: list[int]):
    merges = Merges(*checkpoints, NAMES, threads=1)
    first = dict(merges.each(SETTINGS[:3]))
    assert merges.made == 3
    again = dict(merges.each([SETTINGS[2], SETTINGS[3], SETTINGS[0]]))
    assert merges.made == sum(counted) == 4
    for at, expected in ((0, first[2]), (2, first[0])):
        assert again[at] is expected
    equal = {**SETTINGS[0], "preference": rounded(SHARES)}  # another object that says the same
    assert next(iter(merges.each([dict(reversed(equal.items()))])))[1] is first[0]
    assert merges.made == 4


def test_settings_that_are_given_twice_are_merged_once(checkpoints: tuple[Path, list[Path]]):
    merges = Merges(*checkpoints, NAMES, threads=1)
    found = dict(merges.each([SETTINGS[0], SETTINGS[1], SETTINGS[0], SETTINGS[1]]))
    assert merges.made == 2
    assert sorted(found) == [0, 1, 2, 3]
    assert found[0] is found[2]
    assert found[1] is found[3]


@pytest.mark.parametrize("models", [0, 1, 2.5])
def test_they_are_kept_within_memory(
    models: float, checkpoints: tuple[Path, list[Path]], counted: list[int], monkeypatch: pytest.MonkeyPatch
):
    base, tasks = checkpoints
    with Candidates(base, tasks, NAMES, threads=1) as own:
        size = sum(values.nbytes for values in own.model(method="average").values())
    counted.clear()
    monkeypatch.setattr(merging, "MEMORY", int(models * size))
    merges = Merges(base, tasks, NAMES, threads=1)
    some = SETTINGS[:5]
    for _ in merges.each(some):
        kept = sum(values.nbytes for model in merges._kept.values() for values in model.values())
        assert kept <= merging.MEMORY
    assert max(counted) == max(1, int(models))
    assert merges.made == 5
    # The newest are still there; the others are made again, with the same values.
    newest = list(merges.each(some[5 - int(models) :])) if models >= 1 else []
    assert len(newest) == int(models)
    assert merges.made == 5
    expected = dict(Merges(base, tasks, NAMES, threads=1).each(some[:1]))[0]
    assert_same(dict(dict(merges.each(some[:1]))[0]), dict(expected))
    assert merges.made == 6


def test_a_preference_tells_settings_apart():
    one = {"method": "tunable_magmax", "preference": Preference.explicit(["0.5", "0.5"])}
    other = {"method": "tunable_magmax", "preference": Preference.explicit(["0.4", "0.6"])}
    assert merging._key(one) != merging._key(other)
    assert merging._key(one) == merging._key({**one, "preference": Preference.explicit(["0.5", "0.5"])})


def test_a_recipe_whose_shares_differ_from_layer_to_layer_is_tried_by_position(tmp_path: Path):
    for name in ("base", "cars", "birds"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    file = tmp_path / "mine.yaml"
    file.write_text(
        "merge_method: tunable_magmax\nbase_model: base\nmodels: [{model: cars}, {model: birds}]\n"
        "parameters:\n  prefer:\n  - {filter: deep, value: 'alpha:2'}\n  - value: {cars: 0.25, birds: 0.75}\n"
    )
    found = candidates(("cars", "birds"), np.array([0.5, 0.5]), False, [file])[-1]
    preference = found.settings["preference"]
    assert isinstance(preference, ByLayer)
    assert [one.names for one in preference.values()] == [None, None]
    assert preference.values()[1].shares(("x", "y")) == (Fraction(1, 4), Fraction(3, 4))
