"""Tables and sentences about `adapt`: rows with the prior and without it, promises against what came of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefmerge.lab import findings, table_parts, tables, target_tables
from prefmerge.lab.results import Results, Score
from prefmerge.lab.table import Table
from tests.lab.made import places

PLACES = places(5)


def results(right: dict[str, int], estimates: dict[str, tuple[float, float, float]] | None = None) -> Results:
    """Right answers of 100, one more at twelve of the places, which are others for `adapt`: so differences vary."""

    def score(name: str, n: int, i: int) -> Score:
        ours = name.startswith("Adapt")
        more = i % 2 if ours else i // 2 % 2
        return Score(
            "places", name, "" if ours else "1", 3, PLACES[i].name, PLACES[i].variant, n + more, 100, f"samples {i}"
        )

    scores = tuple(score(name, n, i) for name, n in right.items() for i in range(len(PLACES)))
    scores = tuple(replace(one, estimate=(estimates or {}).get(one.method)) for one in scores)
    return Results("made", ("a", "b", "c", "d", "e"), (3,), ("1",), PLACES, scores)


RIGHT = {"MAGMAX": 50, "MAGMAX + prior": 62, "Baseline": 55, "Adapt (labels), encoder alone": 60, "Adapt (labels)": 73}


def rows_of(table: Table | None) -> dict[str, list[str]]:
    assert table is not None
    return {row[0].text: [value.text for value in row[1:]] for row in table.rows}


def test_a_row_has_both_columns_and_how_far_it_is_ahead():
    table = target_tables.overview(results(RIGHT))
    assert table is not None
    minus = ["minus MAGMAX", "minus Baseline"]
    assert list(table.header) == ["Entry", "Scale", "As it is", *minus, "With the prior", *minus]
    rows = rows_of(table)
    assert list(rows) == ["Baseline", "MAGMAX", "Adapt (labels)"]
    scale, plain, of_magmax, of_last, added, *ahead = rows["MAGMAX"]
    assert scale == "1"
    assert float(added) - float(plain) == pytest.approx(12)
    assert (of_magmax, of_last) == ("", "-5.0, 0/25")  # it is not compared with itself
    assert ahead == ["+12.0, 25/25", "+7.0, 25/25"]
    assert rows["Baseline"][4:] == ["", "", ""]  # no row of it has the prior
    own, _, _, alone, _, _, whole = rows["Adapt (labels)"]
    assert own == "own"
    assert alone.startswith("+5.0 [")
    assert whole.startswith("+18.0 [")
    assert whole.endswith(", 25/25")


def test_a_row_without_a_scale_of_its_own_is_compared_with_each_rival_at_its_best():
    whole = results(RIGHT)
    more = [replace(one, scale="0.5", right=one.right + 3) for one in whole.scores if one.method == "MAGMAX"]
    rows = rows_of(target_tables.overview(replace(whole, scores=(*whole.scores, *more))))
    assert rows["Adapt (labels)"][5].startswith("+20.0")  # MAGMAX is best at 0.5


def test_without_any_prior_there_is_no_table():
    assert target_tables.overview(results({"MAGMAX": 50, "Baseline": 55})) is None


def test_an_entry_of_one_training_says_so():
    first = results({**RIGHT, "Adapt (pairs)": 74})
    second = [replace(one, seed=4) for one in first.scores if one.method != "Adapt (pairs)"]
    both = replace(first, seeds=(3, 4), scores=(*first.scores, *second))
    table = target_tables.overview(both)
    assert table is not None
    assert "Seed 3 only: Adapt (pairs)." in table.notes
    row = rows_of(table)["Adapt (pairs)"]
    assert row[4] == "74.5*"
    assert row[6].startswith("+19.0")
    against = rows_of(tables.differences(both, None, first="Adapt (labels)"))
    assert against["Adapt (pairs)"][5].startswith("-1.0")


def test_an_entry_against_what_is_there_without_it():
    rows = rows_of(target_tables.by_environment(results({**RIGHT, "Last + fitted bias": 70}), "Adapt (labels)"))
    assert list(rows) == [f"{name} (scale 1)" for name in ("Baseline", "Last + fitted bias", "MAGMAX")]
    *environments, every, _ = rows["Last + fitted bias (scale 1)"]
    assert len(environments) == 5
    assert every.startswith("+3.0")


def test_what_adapt_chose_is_counted():
    whole = results(RIGHT)
    names = ["last checkpoint", "increments", "increments"]
    chosen = {"Adapt (labels)": names, "MAGMAX": ["no choice of adapt"] * 3}
    scores = tuple(
        replace(one, chosen=chosen[one.method][i % 3]) if one.method in chosen else one
        for i, one in enumerate(whole.scores)
    )
    table = target_tables.choices(replace(whole, scores=scores))
    assert table is not None
    assert [[value.text for value in row] for row in table.rows] == [["increments", "17"], ["last checkpoint", "8"]]
    assert target_tables.choices(whole) is None


def test_promises_are_counted_against_what_came():
    # Half of the targets have 73 right, half 74: the interval from .735 holds the second half alone.
    table = target_tables.estimates(results(RIGHT, {"Adapt (labels)": (0.76, 0.735, 0.80)}))
    assert table is not None
    ((name, targets, accuracy, estimate, error, held, width),) = [[value.text for value in row] for row in table.rows]
    upper = sum(i % 2 for i in range(len(PLACES)))
    mean = (73 * (len(PLACES) - upper) + 74 * upper) / len(PLACES)
    assert (name, targets, estimate, width) == ("Adapt (labels)", str(len(PLACES)), "76.0", "6.5")
    assert accuracy == f"{mean:.1f}"
    assert error.startswith(table_parts.points((76 - mean) / 100))
    assert held == f"{upper} of {len(PLACES)} ({100 * upper / len(PLACES):.0f} %)"


def test_who_is_ahead_and_who_is_behind():
    without, said = findings.about_adapt(results({**RIGHT, "Fine-tuned (pairs)": 80}))
    assert without.startswith("Adapt (labels) minus what is there without it, in points: Baseline (scale 1) +18.0 [")
    assert without.endswith("], higher at 25 of 25 targets.")
    assert said.startswith("Adapt (labels), each other entry at its best scale, is ahead of Baseline (+18.0), ")
    assert "MAGMAX (+23.0)" in said
    assert said.endswith("behind Fine-tuned (pairs) (-7.0).")


def test_a_promise_is_told_with_its_error():
    *_, said = findings.about_adapt(results(RIGHT, {"Adapt (labels)": (0.76, 0.735, 0.80)}))
    assert said.startswith("Adapt (labels) promised 76.0 % and reached 73.5 %, 25 targets of all trainings; ")
    assert "12 of 25 (48 %) of its 90 % intervals hold what came." in said


def test_tables_say_which_selection_made_which_row():
    names = ["MAGMAX", "Tunable (OT)", "Tunable (OT) + prior", "Tunable (Label), optimal + step"]
    assert table_parts.selection_note(names, results(RIGHT)) == (
        "Selection (released is that of the authors' code). released: Tunable (OT), Tunable (OT) + prior; "
        "optimal: Tunable (Label), optimal + step."
    )
    assert table_parts.selection_note(["MAGMAX"], results(RIGHT)) == ""
