"""The tables: small ones written out by hand, and what they say of what is missing, single, published or best."""

from __future__ import annotations

import csv
import dataclasses
import io
from fractions import Fraction

import pytest

from prefmerge.lab import table_parts, tables
from prefmerge.lab.environments import Mix
from prefmerge.lab.results import Results, Score, Shown
from prefmerge.lab.statistics import Mean
from prefmerge.lab.table import Table, Value
from tests.lab.made import KINDS, made, places, pools

PAPER = {"environments": "cifar100-5", "ablation": "5", "supplement": "vit-b-16-laion400m", "column": "CIFAR100/5"}


def small(**changes: object) -> Results:
    """Two methods and Search in two user-defined environments of one variant, seeds 3 and 4."""
    mixes = (Mix("clinic", (Fraction(4, 5), Fraction(1, 5))), Mix("ward", (Fraction(1, 2), Fraction(1, 2))))
    main = places(3, mixes, size=20, variants=1)
    right = {
        ("MAGMAX", "0.5"): ((9, 9), (12, 10)),
        ("Tunable (Label)", "0.5"): ((12, 14), (9, 15)),
        ("Search", ""): ((10, 10), (10, 10)),
    }
    scores = tuple(
        Score("places", method, scale, seed, one.name, 0, counts[e][s], 18, one.digest)
        for (method, scale), counts in right.items()
        for e, one in enumerate(main)
        for s, seed in enumerate((3, 4))
    )
    base = Results("small", tuple(pool.name for pool in pools(3)), (3, 4), ("0.5",), environments=main, scores=scores)
    return dataclasses.replace(base, **changes)


def column(table: Table | None, title: str) -> dict[str, str]:
    assert table is not None
    at = table.header.index(title)
    return {row[0].text: row[at].text for row in table.rows}


# Worked out by hand: 9/18 = 50.0; 12/18 = 66.7 and 14/18 = 77.8 give 72.2 ± 7.9; 9/18, 15/18 give 66.7 ± 23.6.
GOLDEN = """\
**Accuracy (%) in the target environments, scale 0.5**

| Method | Average | clinic (0.8, 0.2) | ward (0.5, 0.5) |
| --- | ---: | ---: | ---: |
| MAGMAX | 55.6 ± 3.9 | 50.0 ± 0.0 | 61.1 ± 7.9 |
| Tunable (Label) | **69.4 ± 15.7** | **72.2 ± 7.9** | **66.7 ± 23.6** |
| Search | 55.6 ± 0.0 | 55.6 ± 0.0 | 55.6 ± 0.0 |

- Mean over 1 variant of each environment, 18 test samples in each, the same for all methods. ± is the standard \
deviation over the trainings (seeds 3, 4).
- Search: chosen with its own scale, so its row is the same at every scale.
- What a method was shown of the target. Search: samples with labels; Tunable (Label): labels alone; every other: \
nothing.
- Selection (released is that of the authors' code). released: Tunable (Label); paper: Search.
- Bold: the best of the column.
"""
GOLDEN_CSV = """\
Method,Average,"clinic (0.8, 0.2)","ward (0.5, 0.5)"
MAGMAX,55.6 ± 3.9,50.0 ± 0.0,61.1 ± 7.9
Tunable (Label),69.4 ± 15.7,72.2 ± 7.9,66.7 ± 23.6
Search,55.6 ± 0.0,55.6 ± 0.0,55.6 ± 0.0
"""


def test_a_small_table_of_environments():
    table = tables.environments(small(), "0.5")
    assert table is not None
    assert table.markdown() == GOLDEN
    assert table.csv() == GOLDEN_CSV
    assert table.name == "environments-scale-0.5"


def test_html_says_the_same_with_every_text_escaped():
    table = Table("t", "a < b & c", ("Method", "e1"), ((Value("<script>"), Value("1.0", True)),), ('"quoted" > note',))
    assert table.html() == (
        '<div class="scroll" tabindex="0" role="region" aria-label="a &lt; b &amp; c"><table id="t">'
        "<caption><span>a &lt; b &amp; c</span></caption>"
        '<thead><tr><th scope="col" class="w">Method</th><th scope="col">e1</th></tr></thead><tbody>'
        '<tr><th scope="row" class="w"><bdi>&lt;script&gt;</bdi></th><td><strong>1.0</strong></td></tr>'
        "</tbody></table></div>"
        '<ul class="notes"><li>&quot;quoted&quot; &gt; note</li></ul>'
    )


def test_markdown_keeps_marks_of_a_text_as_they_are():
    table = Table("t", "c", ("Method", "x"), ((Value("a|b*_c\nd"), Value("[1.0, 2.0]")),))
    assert "| a\\|b\\*\\_c d | \\[1.0, 2.0\\] |" in table.markdown()


# Numbers as text


@pytest.mark.parametrize(
    ("value", "text"), [(0.031, "+3.1"), (-0.2, "-20.0"), (0.0, "0.0"), (-0.0001, "0.0"), (0.0004, "0.0")]
)
def test_points_have_a_sign_unless_they_round_to_zero(value: float, text: str):
    assert table_parts.points(value) == text


def test_means_with_and_without_a_deviation():
    assert table_parts.with_std(Mean(0.7123, 0.0034, (3, 4)), (3, 4)) == "71.2 ± 0.3"
    assert table_parts.with_std(Mean(0.7123, None, (3,)), (3,)) == "71.2"
    assert table_parts.with_std(Mean(0.7123, None, (3,)), (3, 4)) == "71.2*"
    assert table_parts.with_std(None) == "\N{EN DASH}"


def test_methods_come_in_the_order_of_the_figures_and_others_last():
    assert table_parts.in_order(["Mine", "Search", "MAGMAX", "Baseline", "Other"]) == [
        "Baseline",
        "MAGMAX",
        "Search",
        "Mine",
        "Other",
    ]
    mixed = ["Mine", "MAGMAX", "Mine + prior", "MAGMAX + prior"]
    assert table_parts.in_order(mixed) == ["MAGMAX", "MAGMAX + prior", "Mine", "Mine + prior"]


def test_ratios_in_headings():
    whole = made(20, seeds=(3,), scales=("1",), methods=("MAGMAX",))
    assert table_parts.ratios(whole, "e3") == "(1/3, 1/3, 1/3)"
    assert table_parts.ratios(whole, "m10") == "(10 \N{MULTIPLICATION SIGN} 0.1)"
    assert table_parts.ratios(whole, "m1") == "(1)"
    assert table_parts.ratios(whole, "unknown") == ""


# Missing, single, published


def test_what_is_missing_is_a_dash_and_a_note():
    whole = small()
    gone = {("MAGMAX", 3, "ward"), ("MAGMAX", 4, "ward"), ("Search", 4, "clinic")}
    scores = tuple(s for s in whole.scores if (s.method, s.seed, s.environment) not in gone)
    table = tables.environments(dataclasses.replace(whole, scores=scores), "0.5")
    assert table is not None
    assert column(table, "ward (0.5, 0.5)")["MAGMAX"] == table_parts.MISSING
    assert column(table, "Average") == {
        "MAGMAX": table_parts.MISSING,
        "Tunable (Label)": "69.4 ± 15.7",
        "Search": "55.6*",
    }
    assert table.notes[-3:] == (
        "Missing: MAGMAX at scale 0.5: ward (2 of 2 scores).",
        "Missing: Search: clinic (1 of 2 scores).",
        "*: fewer seeds than the other numbers, so not to be compared with them.",
    )


def test_a_number_with_a_star_is_never_the_best():
    whole = small()
    scores = tuple(s for s in whole.scores if (s.method, s.seed) != ("Tunable (Label)", 3))
    table = tables.environments(dataclasses.replace(whole, scores=scores), "0.5")
    assert table is not None
    bold = {row[0].text for row in table.rows if row[1].bold}
    assert column(table, "Average")["Tunable (Label)"] == "80.6*"
    assert bold == {"MAGMAX", "Search"}  # 55.6 both, as printed


def test_one_seed_has_no_deviation_and_the_note_says_so():
    whole = small()
    one = dataclasses.replace(whole, seeds=(3,), scores=tuple(s for s in whole.scores if s.seed == 3))
    table = tables.environments(one, "0.5")
    assert table is not None
    assert not any("±" in cell.text for row in table.rows for cell in row)
    assert "One training (seed 3): there is no standard deviation over trainings." in table.notes[0]
    differences = tables.differences(one, "0.5", second="MAGMAX")
    assert differences is not None
    assert "By seed" not in differences.header


def test_published_numbers_stand_beside_ours_at_their_scale_only():
    whole = made(methods=("MAGMAX", "Tunable (Label)", "Search"), paper=PAPER, studies=("places",))
    half, one, best = (tables.environments(whole, scale) for scale in ("0.5", "1", None))
    assert half is not None
    assert half.header[:5] == ("Method", "Average", "Average paper", "e1 (0.5, 0.5)", "e1 paper")
    assert column(half, "e2 paper") == {"MAGMAX": "83 ± 0", "Tunable (Label)": "86 ± 1", "Search": ""}
    assert column(half, "Average paper") == {"MAGMAX": "83", "Tunable (Label)": "85", "Search": ""}
    assert any(note.startswith("paper: arXiv:2605.20803, table 5; ") for note in half.notes)
    for table in (one, best):
        assert table is not None
        assert not any(text.endswith("paper") for text in table.header)
        assert not any(note.startswith("paper: ") for note in table.notes)
    assert not any(row[i].bold for row in half.rows for i, title in enumerate(half.header) if title.endswith("paper"))


def test_the_best_scale_is_chosen_by_the_average_and_called_optimistic():
    whole = made(methods=("MAGMAX", "Tunable (Label)", "Search"), studies=("places",))
    table = tables.environments(whole, None)
    assert column(table, "Scale") == {"MAGMAX": "0.5", "Tunable (Label)": "1", "Search": "own"}
    assert table is not None
    assert any("optimistic" in note for note in table.notes)
    for scale in ("0.5", "1"):
        for name, text in column(tables.environments(whole, scale), "Average").items():
            assert float(text.split()[0]) <= float(column(table, "Average")[name].split()[0])


def test_a_method_without_a_whole_scale_is_named_as_left_out():
    whole = small()
    scores = tuple(s for s in whole.scores if (s.method, s.environment) != ("MAGMAX", "ward"))
    less = dataclasses.replace(whole, scores=scores)
    table = tables.environments(less, None)
    assert table is not None
    assert "Left out, for no training has all scores of a scale: MAGMAX." in table.notes
    ours = tables.differences(less, None, first="Tunable (Label)")
    assert ours is not None
    assert "Left out, for no training has all scores of a scale: MAGMAX." in ours.notes


# Differences


def test_differences_in_both_directions():
    whole = small()
    against = tables.differences(whole, "0.5", second="MAGMAX")
    # clinic: (3 + 5) / 2 / 18 = 22.2; ward: (-3 + 5) / 2 / 18 = 5.6; together 13.9, t of one degree: 12.706 * 8.33.
    assert column(against, "clinic")["Tunable (Label)"] == "+22.2"
    assert column(against, "All targets")["Tunable (Label)"] == "+13.9 [-92.0, 119.8]"
    assert column(against, "Won / tied / lost") == {"Tunable (Label)": "2 / 0 / 0", "Search": "1 / 0 / 1"}
    assert column(against, "By seed")["Tunable (Label)"] == "0.0, +27.8"
    ours = tables.differences(whole, "0.5", first="Tunable (Label)")
    assert column(ours, "All targets")["MAGMAX"] == "+13.9 [-92.0, 119.8]"
    assert list(column(ours, "clinic")) == ["MAGMAX", "Search"]


def test_an_interval_that_does_not_hold_zero_is_bold():
    whole = made(methods=("MAGMAX", "Tunable (Label)", "Tunable (Cos)"), scales=("0.5",), studies=("places",))
    table = tables.differences(whole, "0.5", second="MAGMAX")
    assert table is not None
    seen = set()
    for row in table.rows:
        for cell in (row[1], *row[3:8]):
            low, high = (float(v) for v in cell.text.split("[")[1].rstrip("]").split(","))
            assert cell.bold == (low > 0 or high < 0), cell.text
            seen.add((cell.bold, high < 0))
    assert seen == {(True, False), (True, True), (False, False)}  # above, below and around zero: none is untested


def test_pairs_left_out_are_told():
    whole = small()
    scores = tuple(s for s in whole.scores if (s.method, s.seed, s.environment) != ("Search", 3, "ward"))
    table = tables.differences(dataclasses.replace(whole, scores=scores), "0.5", second="MAGMAX")
    assert table is not None
    assert table.notes[-1] == "Pairs left out. Search minus MAGMAX: no score of Search: ward variant 0 seed 3."


def test_comparisons_in_long_form():
    text = tables.comparison_rows(tables.comparisons(small(), "0.5")).csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["first"], row["environment"]) for row in rows[:3]] == [
        ("Tunable (Label)", "clinic"),
        ("Tunable (Label)", "ward"),
        ("Tunable (Label)", "all"),
    ]
    assert float(rows[0]["mean"]) == pytest.approx(4 / 18)
    assert rows[0]["t low"] == ""
    assert float(rows[2]["bootstrap low"]) == pytest.approx(1 / 18)
    assert rows[2]["won"] == "2"


def test_nothing_to_compare_with():
    without = tuple(s for s in small().scores if s.method != "MAGMAX")
    assert tables.differences(small(scores=without), "0.5", second="MAGMAX") is None


# Similarities


def test_the_ablation_has_the_papers_numbers():
    table = tables.ablation(made(paper=PAPER, studies=("places",)))
    assert table is not None
    assert table.header == (
        "Method",
        "Average, scale 0.5",
        "minus MAGMAX, scale 0.5",
        "Average, scale 1",
        "minus MAGMAX, scale 1",
        "paper, scale 0.5",
    )
    assert list(column(table, "paper, scale 0.5").items()) == [
        ("MAGMAX", "83"),
        ("Tunable (Cos)", "84"),
        ("Tunable (MMD)", "80"),
        ("Tunable (OT)", "83"),
        ("Tunable (Label)", "85"),
    ]
    assert column(table, "minus MAGMAX, scale 0.5")["MAGMAX"] == ""


def test_distances_of_shares_by_hand():
    whole = small()
    truth = whole.environments[0].truth(whole.tasks)
    shown = tuple(
        Shown(seed, one.name, one.variant, kind, shares or one.truth(whole.tasks), one.truth(whole.tasks))
        for kind, shares in (("label", None), ("ot", (1 / 3, 1 / 3, 1 / 3)))
        for one in whole.environments
        for seed in (3, 4)
    )
    table = tables.similarities(dataclasses.replace(whole, similarities=shown))
    assert sorted(truth) == pytest.approx([0, 0.2, 0.8])
    # Equal shares of three: (|1/3| + |1/3 - 0.2| + |0.8 - 1/3|) / 2 = 0.467; in the ward 1/3.
    assert column(table, "clinic (0.8, 0.2)") == {"Label": "0.00 ± 0.00", "OT": "0.47 ± 0.00", "Equal shares": "0.47"}
    assert column(table, "Average") == {"Label": "0.00 ± 0.00", "OT": "0.40 ± 0.00", "Equal shares": "0.40"}
    assert column(table, "Largest share right (%)")["Label"] == "100.0"


def test_similarities_of_each_study_are_apart():
    whole = made(scales=("1",), methods=("MAGMAX", *KINDS.values()))
    main = tables.similarities(whole)
    assert main is not None
    assert [title.split()[0] for title in main.header[3:8]] == ["e1", "e2", "e3", "e4", "e5"]
    assert tables.similarities(whole, "diversity") is None  # none was made for those
    assert list(column(main, "Average")) == ["Label", "OT", "Cos", "MMD", "Equal shares"]


# Models on all tasks


def test_alpha():
    table = tables.alpha(made(studies=("alpha",)))
    assert table is not None
    assert [(row[0].text, row[1].text) for row in table.rows[:6]] == [
        ("0.5", "0.25"),
        ("0.5", "0.5"),
        ("0.5", "1"),
        ("0.5", "2"),
        ("0.5", "4"),
        ("0.5", "MAGMAX"),
    ]
    assert table.header[2:] == ("First task (task-01)", "Last task (task-05)", "All tasks")


def test_methods_have_the_papers_number_where_the_training_is_the_papers():
    whole = made(studies=("methods",), paper=PAPER)
    average = next(one for one in whole.task_scores if one.method == "Average")
    sequential = dataclasses.replace(average, training="sequential", scale="1.0")
    table = tables.methods(dataclasses.replace(whole, task_scores=(*whole.task_scores, sequential)))
    assert table is not None
    at = {(row[0].text, row[1].text, row[2].text): row[4].text for row in table.rows}
    assert at["Zero-shot", "", ""] == "71.29"
    assert at["MAGMAX", "sequential", "0.5"] == "84.85"
    assert at["Average", "independent", "1"] == "82.41"
    assert at["Average", "sequential", "1"] == ""
    assert at["Baseline", "sequential", "1"] == ""
    starred = next(row for row in table.rows if (row[0].text, row[1].text) == ("Average", "sequential"))
    assert starred[3].text.endswith("*")
    assert any(note.startswith("*: fewer seeds") for note in table.notes)


def test_places_with_what_they_lack():
    found = made(5, seeds=(3,), scales=("1",), methods=("MAGMAX",), studies=("places",), size=100)
    table = tables.places(found)
    assert table is not None
    row = next(row for row in table.rows if row[0].text == "e2, variant 0")
    assert row[1].text == "60 task-04, 20 task-01"  # each task has 60
    assert row[2].text == "20 task-04"


def test_results_with_nothing_in_them_have_no_tables():
    empty = Results("empty", ("a", "b"), (3,), ("1",))
    assert tables.environments(empty, "1") is None
    assert tables.environments(empty, None) is None
    assert tables.differences(empty, "1") is None
    assert tables.ablation(empty) is None
    assert tables.similarities(empty) is None
    assert tables.alpha(empty) is None
    assert tables.methods(empty) is None
    assert tables.places(empty) is None


def test_a_method_of_the_recipes_own_is_said_to_have_been_shown_what_it_was():
    found = small()
    own = {"name": "Sharp", "similarity": "label", "settings": {"selection": "optimal"}}
    scores = tuple(dataclasses.replace(one, method="Sharp") for one in found.scores if one.method == "Tunable (Label)")
    about = {"recipe": {"methods": ["MAGMAX", own]}}
    table = tables.environments(dataclasses.replace(found, scores=found.scores + scores, about=about), "0.5")
    assert table is not None
    assert any("Tunable (Label) and Sharp: labels alone" in note for note in table.notes)
