"""A scope in sections gives the bits of a scope in one, however its tensors are cut.

Every question and every answer goes through pickle, as it does between machines.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefmerge.methods import Report, Rule, Settings, optimal, records
from prefmerge.methods.protocol import Deltas
from prefmerge.methods.sections import Ask, InSections, ScopeSection
from prefmerge.methods.ties import Ties
from prefmerge.methods.tunable import TunableMagmax
from prefmerge.preference import Preference
from prefmerge.vectors.workspace import Workspace
from tests.methods.problems import Arrays

TASKS = 4


def sent(sections: Sequence[ScopeSection]) -> Ask:
    """Asks these sections as if each were on another machine."""

    def ask(question: Any, *given: Any, each: Sequence[Any] | None = None) -> list[Any]:
        answers = []
        for i, section in enumerate(sections):
            asked, own = pickle.loads(pickle.dumps((question, given if each is None else (each[i], *given))))
            answers.append(pickle.loads(pickle.dumps(asked(section, *own))))
        return answers

    return ask


def merged(rules: Sequence[Rule], work: Workspace) -> list[bytes | None]:
    """The merged task vector of every tensor; None where none changed it."""
    vectors: list[bytes | None] = []
    for rule in rules:
        for i, deltas in enumerate(rule.tensors):
            if rule.unchanged(i):
                vectors.append(None)
                continue
            out = np.full(deltas.size, np.nan, np.float32)
            for start in range(0, deltas.size, 97):
                rule.block(i, start, min(start + 97, deltas.size), out[start : start + 97], work)
            vectors.append(out.tobytes())
    return vectors


def of(method: InSections, tensors: Sequence[Deltas], how: Settings, cuts: Sequence[int], work: Workspace) -> Any:
    """The merged tensors and the report, where a section begins at each of `cuts`."""
    edges = [0, *cuts, len(tensors)]
    sections = [method.section(tensors[a:b], how, work) for a, b in pairwise(edges)]
    report = method.conduct(how, sent(sections), work)
    return merged([section.rule(report) for section in sections], work), report.entries()


def in_one(method: InSections, tensors: Sequence[Deltas], how: Settings, work: Workspace) -> Any:
    rule = method.prepare(tensors, how, work)
    return merged([rule], work), rule.report.entries()


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Deltas], list[int]]:
    """Tensors with ties, zeros, unchanged ones and empty ones among them; and where to cut."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 7, 64, 300, 1000]), min_size=1, max_size=6))
    kinds = draw(
        st.lists(st.sampled_from(["steps", "steps", "normal", "unchanged"]), min_size=len(sizes), max_size=len(sizes))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors: list[Deltas] = []
    for i, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        steps = rng.integers(-3, 4, (TASKS, size)) / 64 if kind == "steps" else rng.standard_normal((TASKS, size))
        steps = steps * (kind != "unchanged")
        tensors.append(Arrays(np.cumsum(steps, axis=0).astype(np.float32), f"layer.{i}"))
    cuts = draw(st.sets(st.integers(0, len(sizes)), min_size=1, max_size=4))  # at an end: a section without tensors
    return tensors, sorted(cuts)


def tunable(preference: str, **values: Any) -> tuple[InSections, Settings]:
    shares = Preference.parse(preference).shares([str(t) for t in range(TASKS)])
    values = {name: Fraction(value) if name == "strength" else value for name, value in values.items()}
    return TunableMagmax(), Settings(TASKS, shares=shares, values={"scope": "model", **values})


def ties(**values: Any) -> tuple[InSections, Settings]:
    return Ties(), Settings(TASKS, values={"scope": "model", **values})


CASES = {
    "paper": tunable("0.5,0,0.2,0.3", selection="paper"),
    "paper, by step, at strength 0.3": tunable("1,2,3,4", selection="paper", importance="step", strength="0.3"),
    "printed": tunable("0.5,0,0.4,0.1", selection="printed", passes=3),
    "released": tunable("0,0.1,0.2,0.7", selection="released"),
    "optimal": tunable("0.5,0.2,0.2,0.1", selection="optimal"),
    "optimal, by step": tunable("alpha:2", selection="optimal", importance="step", toward_last=Fraction(1, 2)),
    "optimal, at strength 0": tunable("1,0,0,0", selection="optimal", strength="0"),
    "optimal, one task": tunable("0,0,1,0", selection="optimal"),
    "ties": ties(density=(Fraction(1, 2),) * TASKS),
    "ties, a density each": ties(density=(Fraction(1), Fraction(1, 5), Fraction(1, 1000), Fraction(9, 10))),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_any_cut_gives_the_same(case: str, problem: tuple[list[Deltas], list[int]]):
    (method, how), (tensors, cuts) = CASES[case], problem
    with Workspace(block=64) as work:
        assert of(method, tensors, how, cuts, work) == in_one(method, tensors, how, work)


@pytest.mark.parametrize("cuts", [[1], [2], [1, 2], [0, 1, 1, 3]])
def test_equals_are_kept_in_the_order_of_all_tensors(cuts: list[int]):
    method, how = ties(density=(Fraction(1, 2),) * TASKS)
    tensors: list[Deltas] = [Arrays(np.ones((TASKS, size), np.float32), str(size)) for size in (10, 20, 5)]
    with Workspace(block=8) as work:
        vectors, _ = of(method, tensors, how, cuts, work)
    kept = np.concatenate([np.frombuffer(one, np.float32) for one in vectors])
    assert kept.tolist() == [1.0] * 17 + [0.0] * 18


def walk(sizes: Sequence[int], seed: int = 0) -> list[Deltas]:
    rng = np.random.default_rng(seed)
    each = [np.cumsum(rng.standard_normal((TASKS, size)).astype(np.float32), axis=0) for size in sizes]
    return [Arrays(tau_TP, f"layer.{i}") for i, tau_TP in enumerate(each)]


@pytest.mark.parametrize("importance", ["magnitude", "step"])
@pytest.mark.parametrize("search", [True, False])
def test_a_scope_that_is_larger_than_what_is_solved_at_once(
    importance: str, search: bool, monkeypatch: pytest.MonkeyPatch
):
    """It is settled bit by bit, at prices from samples; where no attempt holds, it is solved in pieces."""
    monkeypatch.setattr(optimal, "ROWS", 1 << 14)
    monkeypatch.setattr(optimal, "SAMPLE", 1 << 13)
    if not search:
        monkeypatch.setattr(optimal, "_search", lambda *_: None)
    method, how = tunable("0.4,0.3,0.2,0.1", selection="optimal", importance=importance)
    tensors = walk([9000, 100, 0, 7000, 3000, 1])
    questions = count_questions(monkeypatch)
    with Workspace(threads=2, block=512) as work:
        whole = in_one(method, tensors, how, work)
        assert questions["settle"] > 0 if search else questions["terms"] > 0
        for cuts in ([1], [3], [1, 2, 3, 4, 5]):
            assert of(method, tensors, how, cuts, work) == whole
    assert Report.of(whole[1]) is not None
    assert whole[1]["gap"] < (1e-6 if search else 0.1)


def count_questions(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often sections are asked for what a scope in memory does not need."""
    counts = {"settle": 0, "terms": 0}
    for name in counts:
        real = getattr(optimal.Contested, name)

        def counting(section: Any, *given: Any, name: str = name, real: Any = real) -> Any:
            counts[name] += 1
            return real(section, *given)

        counting.__qualname__ = f"Contested.{name}"
        counting.__module__ = optimal.Contested.__module__
        monkeypatch.setattr(optimal.Contested, name, counting)
    return counts


@pytest.mark.parametrize("width", [1e-6, 0.05])
def test_a_draw_that_looks_in_the_wrong_place_is_taken_back_in_every_section(
    width: float, monkeypatch: pytest.MonkeyPatch
):
    method, how = tunable("0.4,0.3,0.2,0.1", selection="paper")
    tensors = walk([900, 100, 0, 700, 300, 1], 3)
    with Workspace(block=64) as work:
        whole = in_one(method, tensors, how, work)
        real, found = records._taken, list[bool]()
        monkeypatch.setattr(records, "WIDTH", width)
        monkeypatch.setattr(records, "_taken", lambda *given: (found.append(real(*given)), found[-1])[1])
        assert of(method, tensors, how, [1, 3, 4], work) == whole
    assert False in found


def test_what_sections_tell_of_a_draw_grows_with_its_square_root(monkeypatch: pytest.MonkeyPatch):
    """Never with the elements: 80,000 candidates, of which about 8 x 2 x sqrt(80,000 / 4) numbers are near the last."""
    told: list[int] = []
    real = records.Records.take_below

    def take_below(section: Any, *given: Any) -> Any:
        answer = real(section, *given)
        told.append(len(answer[2]))
        return answer

    monkeypatch.setattr(records.Records, "take_below", take_below)
    tensors: list[Deltas] = [Arrays(np.ones((TASKS, 40_000), np.float32), name) for name in "ab"]
    method, how = tunable("0.25,0.25,0.25,0.25", selection="paper")
    with Workspace() as work:
        method.prepare(tensors, how, work)
    assert told
    assert max(told) < 16 * 80_000**0.5


def test_explicit_counts_are_compared_with_all_sections():
    method, how = tunable("uniform", selection="paper")
    how = Settings(TASKS, shares=how.shares, counts=(500, 300, 150, 50), values=how.values)
    tensors = walk([600, 300, 100])
    with Workspace(block=64) as work:
        result = of(method, tensors, how, [1, 2], work)
        assert result == in_one(method, tensors, how, work)
    assert result[1]["asked"] == (500, 300, 150, 50)
