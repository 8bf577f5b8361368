"""The parameters of `adapt`, `prefer` and `search`: every refusal, and flags that are derived from the declarations."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import UsageError
from prefmerge.ground.words import flag
from prefmerge.target import api
from prefmerge.target.arguments import AdaptArguments, PreferArguments, SearchArguments
from prefmerge.target.parameters import Declaring, Parameters, PreferParameters, SearchParameters, declarations
from prefmerge.target.parameters.scored import OF_SCORE

RUN = {"run": "my-run", "labels": "seen.csv"}
SCORED = {"score": "python score.py {model}", "out": "site"}
FILES = {"checkpoints": ["base", "one"], "prefer": "1"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": -1}, "--keep -1: expected at least 0."),
        ({"samples": 1}, "--samples 1: expected at least 2."),
        ({"level": 0.4}, "--level 0.4: expected at least 0.5."),
        ({"level": 1.0}, "--level 1: expected at most 0.999."),
        ({"seed": -3}, "--seed -3: expected at least 0."),
        ({"batch": 0}, "--batch 0: expected at least 1."),
        ({"threads": 0}, "--threads 0: expected at least 1."),
        ({"level": float("nan")}, "--level nan: expected a finite number."),
        ({"keep": float("nan")}, "--keep nan: expected a finite number."),
        ({"keep": float("inf")}, "--keep inf: expected a finite number."),
        ({"metric": "loss"}, "--metric loss: expected accuracy or balanced."),
        (
            {"checkpoints": ["base.safetensors", "one"]},
            "--run my-run already says which checkpoints to take. Leave base.safetensors out.",
        ),
        ({"run": None}, "nothing to adapt: give --run RUN, or BASE TASK... in the order of training."),
        (
            {"run": None, "checkpoints": ["base"]},
            "nothing to adapt: give --run RUN, or BASE TASK... in the order of training.",
        ),
        ({"jobs": 0}, "--jobs 0: expected at least 1."),
        (
            {"score": "x {model}"},
            "--out OUT is missing: --score writes its candidates beside it.",
        ),
        (
            {"score": "x {model}", "out": "o", "pairs": "p"},
            "--pairs has no use with --score, whose command alone judges: prefmerge runs no model then. Leave it out, "
            "and say what the target is like with --labels FILE (and --task-labels FILE, where there is no run) or "
            "--prefer SPEC; with neither, all tasks count alike.",
        ),
        ({"budgets": "1,2"}, "--budgets has no use without --score COMMAND, which scores a model."),
        (
            {"labels": None},
            "what is the target like? Give --labels FILE, --inputs PATH, --pairs PATH or --prefer SPEC; more than one "
            "where you have them.",
        ),
        (
            {"prefer": "cars=1"},
            "--prefer states the mix that --labels would be used to estimate. Give one of them.",
        ),
        (
            {"labels": None, "inputs": "photos", "prefer": "cars=1"},
            "--prefer states the mix that --inputs would be used to estimate. Give one of them.",
        ),
        (
            {"pairs": "pairs.csv"},
            "--labels and --pairs: the pairs have labels already. Put all labels of the target into one of them.",
        ),
        ({"task_samples": ["a"]}, "--task-samples has no use with --run, which knows it. Leave it out."),
        ({"head": "head.safetensors"}, "--head has no use with --run, which knows it. Leave it out."),
        ({"model": "clip"}, "--model has no use with --run, which knows it. Leave it out."),
        ({"sampels": 3}, "'sampels' is not a parameter of adapt. Did you mean 'samples'?"),
        ({"zzz": 3}, "'zzz' is not a parameter of adapt."),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(UsageError) as error:
        Parameters.of(**{**RUN, **given})
    assert str(error.value) == message


def ends() -> list[tuple[str, str, float]]:
    """Every end of a range that is declared."""
    return [
        (name, end, value)
        for name, (_, declared) in declarations(Parameters).items()
        for end, value in (("least", declared.least), ("most", declared.most))
        if value is not None
    ]


@pytest.mark.parametrize(("name", "end", "value"), ends())
def test_ranges_hold_their_ends_and_nothing_beyond(name: str, end: str, value: float):
    given = {**RUN, **(SCORED if name in OF_SCORE else {})}
    assert getattr(Parameters.of(**{**given, name: value}), name) == value
    beyond = value - 0.25 if end == "least" else value + 0.25
    with pytest.raises(UsageError, match=rf"^{flag(name)} \S+: expected at (least|most) \S+\.$"):
        Parameters.of(**{**given, name: beyond})


@pytest.mark.parametrize(
    "given",
    [
        RUN,
        FILES,
        {**FILES, **SCORED, "prefer": None},
        {"run": "r", "inputs": "a", "pairs": "b"},
        {"run": "r", "pairs": "b"},
    ],
)
def test_what_makes_sense_is_taken(given: dict[str, Any]):
    made = Parameters.of(**given)
    assert dataclasses.replace(made, seed=5).seed == 5


@pytest.mark.parametrize("run", ["my-run", Path("my-run")])
def test_paths_are_taken_as_text_or_path_one_or_several(run: Any):
    assert Parameters.of(run=run, labels="x").run == Path("my-run")
    one = Parameters.of(checkpoints=["base", Path("one")], prefer="1", task_samples="folder", candidate=("a", "b"))
    assert one.checkpoints == (Path("base"), Path("one"))
    assert one.task_samples == (Path("folder"),)
    assert one.candidate == (Path("a"), Path("b"))
    assert one.prefer == "1"  # no path
    assert one.run is None


def test_what_is_written_of_them_holds_no_folder_and_nothing_local():
    made = Parameters.of(
        run="/home/me/my-run", labels="/secret/seen.csv", candidate=["/home/me/a.yaml"], out="/tmp/out", force=True
    )
    told = json.loads(json.dumps(made.to_json()))
    assert (told["run"], told["labels"], told["candidate"]) == ("my-run", "seen.csv", ["a.yaml"])
    assert set(told) == {name for name, (_, declared) in declarations(Parameters).items() if not declared.local}
    assert "/" not in json.dumps(told)
    scored = Parameters.of(**{**RUN, "out": "site", "score": "/opt/bin/python /home/me/score.py {model}"})
    assert scored.to_json()["score"] == "python score.py {model}"


# The command line


COMMANDS = (Parameters, PreferParameters, SearchParameters)


def command(of: type[Declaring]) -> Any:
    """Of click, or of the copy of it that newer versions of Typer bring along."""
    group: Any = typer.main.get_command(app)
    return group.get_command(None, of.command)


def words(declared: Any, name: str) -> list[str]:
    """How a parameter is given."""
    return [declared.metavar] if declared.argument else [flag(name), *declared.flags]


@pytest.mark.parametrize("of", COMMANDS)
def test_every_parameter_is_declared_with_help(of: type[Declaring]):
    assert list(declarations(of)) == [one.name for one in dataclasses.fields(of)]
    for name, (_, declared) in declarations(of).items():
        assert declared.help.endswith((".", ")", "...")), name
        assert declared.help[0].isupper(), name
    spelled = [word for name, (_, declared) in declarations(of).items() for word in words(declared, name)]
    assert len(set(spelled)) == len(spelled)


def test_a_flag_of_several_commands_is_spelled_alike():
    known: dict[str, list[str]] = {}
    for of in COMMANDS:
        for name, (_, declared) in declarations(of).items():
            assert known.setdefault(name, words(declared, name)) == words(declared, name), name
    assert known["inputs"] == ["--inputs", "--features"]


@pytest.mark.parametrize("of", COMMANDS)
def test_the_command_takes_every_parameter_once(of: type[Declaring]):
    taken = [one.name for one in command(of).params if one.name in declarations(of)]
    assert taken == list(declarations(of))
    rest = {one.name for one in command(of).params} - set(declarations(of))
    assert rest == ({"json", "check"} if of is Parameters else {"json"})
    for one in command(of).params:
        if one.name in declarations(of):
            kind, declared = declarations(of)[one.name]
            if one.param_type_name == "option":
                assert sorted(one.opts) == sorted(words(declared, one.name))
                assert one.is_flag == (kind is bool)
                assert one.multiple == (get_origin(kind) is tuple)
            assert (one.param_type_name == "argument") == declared.argument


@pytest.mark.parametrize("of", COMMANDS)
def test_its_help_lists_every_parameter_once(of: type[Declaring]):
    shown = CliRunner().invoke(app, [of.command, "--help"], prog_name="prefmerge", env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    flat = " ".join(shown.stdout.split())
    entries = [re.split(r" {2,}", line.strip())[0] for line in shown.stdout.splitlines() if re.match(r"  \S", line)]
    listed = [word for entry in entries for word in re.split(r"[ ,]+", entry) if word.startswith("-")]
    for name, (_, declared) in declarations(of).items():
        assert flat.count(" ".join(declared.help.split())) == 1, name
        if declared.argument:
            assert sum(entry.startswith(str(declared.metavar)) for entry in entries) == 1, name
        else:
            assert [listed.count(word) for word in words(declared, name)] == [1] * (1 + len(declared.flags)), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"labels": "a", "inputs": "b"},
            "--labels and --inputs: give one of them. With labels for the inputs, that is",
        ),
        (
            {"checkpoints": ["base", "one"]},
            "--run my-run already says which checkpoints to take. Leave base out.",
        ),
        ({"level": 1.0}, "--level 1: expected a number between 0 and 1, such as 0.9."),
        ({"labels": "a", "gamma": 3.0}, "--gamma has no use with --labels."),
        ({"pairs": "a", "samples": 3}, "--samples has no use with --pairs."),
        ({"inputs": "a", "similarity": "mmd", "solver": "exact"}, "--solver has no use with --similarity mmd."),
        ({"draws": 0}, "--draws has no use without --labels, --inputs or --pairs."),
        ({"inputs": "a", "solver": "magic"}, "--solver magic: expected sinkhorn, exact or debiased."),
        ({"inputs": "a", "samples": 0}, "--samples 0: expected at least 1."),
        (
            {"run": None},
            "nothing to go by. Say what the tasks are (--run RUN, or BASE TASK...) and what you have of the",
        ),
    ],
)
def test_what_makes_no_sense_for_a_preference_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        PreferParameters.of(**{"run": "my-run", **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": None}, "--run RUN is missing: the run whose tasks are to be merged."),
        ({"pairs": None}, "what is the target like? Give --labels FILE, --inputs PATH, --pairs PATH or --prefer SPEC"),
        ({"labels": "c"}, "--labels and --pairs: the pairs have labels already. Put all labels of the target into one"),
        ({"held_out": 0.0}, "--held-out 0: nothing would be left to compare the search with what `prefmerge adapt` ch"),
        ({"pairs": None, "paper": True}, "--paper needs --pairs PATH: inputs of the target with their labels."),
        (
            {"labels": "c", "paper": True},
            "--labels has no use with --paper, which ranks by the pairs alone. Leave it o",
        ),
        (
            {"prefer": "1", "paper": True},
            "--prefer has no use with --paper, which ranks by the pairs alone. Leave it o",
        ),
        ({"patience": 0}, "--patience 0: expected at least 1."),
        ({"batch": 1.5}, "--batch: expected a whole number, found 1.5."),
    ],
)
def test_what_makes_no_sense_for_a_search_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        SearchParameters.of(**{"run": "my-run", "pairs": "a", "out": "b", **given})


def test_what_is_typed_is_what_is_asked(monkeypatch: pytest.MonkeyPatch):
    """Every parameter, given on the command line, arrives under its name, and nothing else does."""
    asked: list[Parameters] = []

    def work(parameters: Parameters, progress: object = None) -> None:
        asked.append(parameters)
        raise UsageError("that will do.")

    monkeypatch.setattr(api, "work", work)
    monkeypatch.setattr(api, "adapt_by_command", work)
    groups = [("run", "labels"), ("checkpoints", "prefer")]
    for name, (kind, declared) in declarations(Parameters).items():
        if name in ("from_", "forget"):  # which need an earlier result: tested in test_again
            continue
        needed = (
            groups[1]
            if name in ("checkpoints", "prefer", "task_samples", "task_labels", "head", "model")
            else groups[0]
        )
        needed = ("run", name) if name in ("inputs", "pairs") else needed
        needed = ("run", "labels", "out", "score") if name in ("score", *OF_SCORE) else needed
        needed = (*needed, "confirm") if name == "confirm_repeats" else needed
        typed: list[str] = []
        for one in dict.fromkeys([*needed, name]):
            typed += _typed(one)
        done = CliRunner().invoke(app, ["adapt", *typed], prog_name="prefmerge")
        assert "that will do." in done.stderr, (name, done.stderr, done.exception)
        defaults = {one.name: one.default for one in dataclasses.fields(Parameters)}
        made = asked[-1]
        changed = {one for one, default in defaults.items() if getattr(made, one) != default}
        assert changed == {*needed, name}, name
        value = getattr(made, name)
        several, single = get_origin(kind) is tuple, Path if Path in get_args(kind) else object
        assert isinstance(value, tuple) == several, name
        assert all(isinstance(one, single) for one in (value if several else [value])), name
        assert not declared.argument or value == (Path("base"), Path("task"))


def _typed(name: str) -> list[str]:
    """A value that is not the default."""
    kind, declared = declarations(Parameters)[name]
    if declared.argument:
        return ["base", "task"]
    if kind is bool:
        return [flag(name)]
    if name == "metric":
        return [flag(name), "balanced"]
    if name == "dtype":
        return [flag(name), "float16"]
    if name == "report":
        return [flag(name), "7.html"]
    if kind is float:
        return [flag(name), "0.75"]
    return [flag(name), "7"]  # a number, a path, a text


def test_refusals_reach_the_user():
    done = CliRunner().invoke(app, ["adapt", "--run", "r"], prog_name="prefmerge")
    assert done.exit_code == 2
    assert "what is the target like? Give --labels FILE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("declaring", "arguments", "function"),
    [
        (Parameters, AdaptArguments, "adapt"),
        (PreferParameters, PreferArguments, "prefer"),
        (SearchParameters, SearchArguments, "search"),
    ],
)
def test_python_has_the_declared_parameters_and_no_others(
    declaring: type[Declaring], arguments: type, function: str
) -> None:
    declared = [one.name for one in dataclasses.fields(declaring)]
    assert list(get_type_hints(arguments)) == declared
    signature = inspect.signature(getattr(prefmerge, function))
    assert list(signature.parameters) == [*declared, "progress"]
    assert all(signature.parameters[one.name].default == one.default for one in dataclasses.fields(declaring))
