"""Tables and sentences about `adapt`: rows with the prior and without it, promises against what came of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefmerge.lab import findings, table_parts, target_tables
from prefmerge.lab.results import Results, Score
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


def test_a_row_has_both_columns_and_how_far_adapt_is_ahead():
    table = target_tables.priors(results(RIGHT), "1")
    assert table is not None
    rows = {row[0].text: [value.text for value in row[1:]] for row in table.rows}
    assert set(rows) == {"MAGMAX", "Baseline", "Adapt (labels)"}
    scale, plain, added, ahead_of_plain, ahead_of_added = rows["MAGMAX"]
    assert scale == "1"
    assert float(added) - float(plain) == pytest.approx(12)
    assert ahead_of_plain.startswith("+23.0")
    assert ahead_of_added.startswith("+11.0")
    assert rows["Baseline"][2] == rows["Baseline"][4] == ""  # no row of it has the prior
    assert rows["Adapt (labels)"][0] == "own"
    assert rows["Adapt (labels)"][3].startswith("+13.0")
    assert rows["Adapt (labels)"][4] == ""  # it is not compared with itself


def test_without_any_prior_there_is_no_table():
    assert target_tables.priors(results({"MAGMAX": 50, "Baseline": 55}), "1") is None


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
    assert held == f"{upper} of {len(PLACES)}"


def test_who_is_ahead_and_who_is_behind():
    (said,) = findings.about_adapt(results({**RIGHT, "Fine-tuned (pairs)": 80}))
    assert said.startswith("Adapt (labels), each other entry at its best scale, is ahead of Baseline (+18.0), ")
    assert "MAGMAX (+23.0)" in said
    assert said.endswith("behind Fine-tuned (pairs) (-7.0).")


def test_tables_say_which_selection_made_which_row():
    names = ["MAGMAX", "Tunable (OT)", "Tunable (OT) + prior", "Tunable (Label), optimal + step"]
    assert table_parts.selection_note(names, results(RIGHT)) == (
        "Selection (released is that of the authors' code). released: Tunable (OT), Tunable (OT) + prior; "
        "optimal: Tunable (Label), optimal + step."
    )
    assert table_parts.selection_note(["MAGMAX"], results(RIGHT)) == ""
