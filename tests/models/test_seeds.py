"""Means over seeds by hand, and what has none."""

from __future__ import annotations

import pytest

from prefmerge.errors import DataError
from prefmerge.models.evaluation import Count, Evaluation
from prefmerge.models.seeds import summary_over_seeds


def test_summary_over_seeds():
    one = Evaluation((Count("a", 4, 1, 2), Count("b", 4, 3, 4)))
    two = Evaluation((Count("a", 4, 3, 4), Count("b", 4, 3, 4)))
    result = summary_over_seeds([one.to_json(), two.to_json()])
    assert result["runs"] == 2
    half = 0.5**0.5 / 2  # the sample deviation of 0.25 and 0.75
    assert result["tasks"][0] == {
        "name": "a",
        "agnostic": {"mean": 0.5, "std": pytest.approx(half)},
        "aware": {"mean": 0.75, "std": pytest.approx(half)},
    }
    assert result["tasks"][1]["agnostic"] == {"mean": 0.75, "std": 0.0}
    assert result["overall"]["agnostic"] == {"mean": 0.625, "std": pytest.approx(half / 2)}
    assert result["mean"]["aware"] == {"mean": 0.875, "std": pytest.approx(half / 2)}
    assert summary_over_seeds([one.to_json()])["overall"]["agnostic"] == {"mean": 0.5, "std": None}


def test_summary_of_what_cannot_be_averaged():
    with pytest.raises(DataError, match="there is no evaluation to summarise"):
        summary_over_seeds([])
    one, two = (Evaluation((Count(name, 4, 1, 2),)).to_json() for name in "ab")
    with pytest.raises(DataError, match=r"evaluation 2 has the tasks b; the first has a\. A mean over seeds needs"):
        summary_over_seeds([one, two])


def test_a_mean_over_what_are_no_seeds_of_one_run_is_refused():
    about = {"checkpoint": "run/base", "classes": ["x", "y"]}
    first = Evaluation((Count("a", 4, 1, 2),), about=about).to_json()
    with pytest.raises(DataError, match="evaluation 2 is the same as an earlier one: run/base"):
        summary_over_seeds([first, first])
    other = {**first, "about": {**about, "classes": ["another"]}}
    with pytest.raises(DataError, match="evaluation 2 is of other classes than the first"):
        summary_over_seeds([first, other])


def test_no_mean_over_samples_of_two_kinds():
    one = Evaluation((Count("a", 4, 1, 2),), about={"samples": "test"}).to_json()
    two = Evaluation((Count("a", 4, 3, 4),), about={"samples": "held-out", "note": "Why."}).to_json()
    with pytest.raises(DataError, match="evaluation 2 is on held-out samples, the first on test samples"):
        summary_over_seeds([one, two])
    other = Evaluation((Count("a", 4, 2, 4),), about={"samples": "held-out", "note": "Why.", "seed": 2}).to_json()
    assert summary_over_seeds([two, other])["note"] == "Why."
