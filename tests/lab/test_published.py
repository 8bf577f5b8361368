"""The papers' numbers: typed again for a few rows, and laws that a table copied to the wrong place breaks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest

from prefmerge.errors import ConfigError
from prefmerge.lab import published
from prefmerge.lab.entries import PAPERS
from prefmerge.plotting import METHODS

# Read off the paper's pages, not off our files: method, five means and stds, average.
TYPED = {
    ("cifar100-20", "Baseline"): ([78, 78, 76, 76, 77], [1, 0, 1, 0, 1], 77),
    ("cifar100-20", "Tunable (Label)"): ([81, 82, 80, 82, 81], [3, 2, 3, 2, 1], 81),
    ("imagenet-r-5", "Rand Mix"): ([83, 83, 84, 83, 84], [1, 1, 1, 0, 1], 83),
    ("cifar100-5", "Tunable (OT)"): ([81, 87, 81, 83, 80], [1, 0, 1, 1, 0], 83),
    ("cifar100-50", "TIES"): ([77, 76, 72, 79, 77], [3, 2, 2, 5, 0], 76),
    ("imagenet-r-20", "MAGMAX"): ([84, 82, 83, 83, 82], [1, 0, 1, 1, 2], 83),
    ("imagenet-r-50", "Tunable (Label)"): ([82, 79, 81, 80, 81], [2, 4, 0, 1, 2], 81),
}
# All numbers of a table added up: means, stds and averages, as parsed from the paper's text.
SUMS = {
    "cifar100-5": 3484,
    "cifar100-20": 3315,
    "cifar100-50": 3282,
    "imagenet-r-5": 3552,
    "imagenet-r-20": 3483,
    "imagenet-r-50": 3472,
}
# Printed averages that the printed means do not give to half a point: they are of unrounded means.
OFF = {
    ("cifar100-5", "Tunable (OT)"),
    ("cifar100-50", "MAGMAX"),
    ("imagenet-r-20", "Tunable (Label)"),
    ("imagenet-r-50", "Baseline"),
}
Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]


def all_environments() -> dict[str, Any]:
    return {key: published.environments(key) for key in published.keys("environments")}


def laws(tables: Tables) -> None:
    """What is true of tables that are each in their place."""
    for a, b in itertools.combinations(tables, 2):
        assert tables[a] != tables[b], f"{a} and {b} are one table"
        same = [method for method in tables[a] if tables[a][method] == tables[b][method]]
        assert len(same) < 2, f"{a} and {b} share the rows of {same}"
    for T in published.keys("ablation"):
        for method, average in published.ablation(T).items():
            row = tables[f"cifar100-{T}"].get(method)
            assert row is None or row["average"] == average, f"table 4, T = {T}: {method}"


def test_there_are_the_tables_of_both_papers():
    assert set(published.keys("environments")) == set(SUMS)
    assert published.keys("ablation") == ("5", "20", "50")
    assert set(published.keys("supplement")) == {"vit-l-14-webimagetext", "vit-b-16-laion400m"}


@pytest.mark.parametrize(("key", "method"), TYPED)
def test_rows_as_typed_from_the_paper(key: str, method: str):
    mean, std, average = TYPED[key, method]
    assert published.environments(key)[method] == {"mean": mean, "std": std, "average": average}


def test_laws():
    laws(all_environments())


def test_the_laws_notice_a_table_in_the_place_of_another():
    tables = all_environments()
    with pytest.raises(AssertionError, match="cifar100-20 and imagenet-r-5 are one table"):
        laws({**tables, "cifar100-20": tables["imagenet-r-5"]})
    swapped = {**tables, "cifar100-20": tables["cifar100-50"], "cifar100-50": tables["cifar100-20"]}
    with pytest.raises(AssertionError, match="table 4, T = 20"):
        laws(swapped)


@pytest.mark.parametrize("key", SUMS)
def test_rows_shapes_and_sums(key: str):
    rows = published.environments(key)
    assert tuple(rows) == PAPERS  # the order of the tables too
    for row in rows.values():
        assert len(row["mean"]) == len(row["std"]) == len(published.NAMES)
        assert all(70 <= mean <= 90 for mean in row["mean"])
        assert all(0 <= std <= 7 for std in row["std"])
    assert sum(sum(row["mean"]) + sum(row["std"]) + row["average"] for row in rows.values()) == SUMS[key]


def test_averages_are_those_of_the_means_to_two_roundings():
    off = set()
    for key, rows in all_environments().items():
        for method, row in rows.items():
            # Each mean is rounded by up to half a point, and so is the average.
            gap = abs(row["average"] - fmean(row["mean"]))
            assert gap < 1
            if gap > 0.5:
                off.add((key, method))
    assert off == OFF


def test_the_ablation_as_typed_from_the_paper():
    names = ("MAGMAX", "Tunable (Cos)", "Tunable (MMD)", "Tunable (OT)", "Tunable (Label)")
    typed = {"5": (83, 84, 80, 83, 85), "20": (77, 78, 74, 79, 81), "50": (77, 75, 74, 76, 78)}
    assert {T: published.ablation(T) for T in typed} == {
        T: dict(zip(names, row, strict=True)) for T, row in typed.items()
    }


def test_the_supplement():
    large, small = "vit-l-14-webimagetext", "vit-b-16-laion400m"
    assert published.supplement(large, "CIFAR100/5")["MAGMAX"] == 88.90
    assert published.supplement(large, "ImageNet-R/10")["LwF"] == 91.80
    assert published.supplement(large, "Cars/20")["TIES"] == 76.41
    assert published.supplement(small, "CUB200/20")["Average"] == 65.31
    assert published.supplement(small, "ImageNet-R/50")["EWC"] == 80.93
    assert published.supplement(small, "average")["Rand Mix"] == 77.24
    for model in (large, small):
        columns = published.columns(model)
        assert len(columns) == 14
        rows = {column: published.supplement(model, column) for column in columns}
        # One number per data set, whatever the number of tasks.
        assert len({rows[column]["Joint"] for column in columns}) == 4
        assert rows["Cars/5"]["Zero-shot"] == rows["Cars/20"]["Zero-shot"]
        for method, average in published.supplement(model, "average").items():
            # Every number is rounded to 0.005; the average of them can be off by as much again.
            assert fmean(rows[column][method] for column in columns) == pytest.approx(average, abs=0.0101)
    assert published.supplement(large, "Cars/5") != published.supplement(small, "Cars/5")


def test_methods_have_the_names_of_our_tables():
    names = {method for rows in all_environments().values() for method in rows}
    names |= {method for T in published.keys("ablation") for method in published.ablation(T)}
    for model in published.keys("supplement"):
        found = published.supplement(model, "average")
        assert set(found) == set(published.TRAININGS)
        names |= set(found)
    assert names <= set(METHODS)


def test_what_is_returned_can_be_changed_without_harm():
    published.environments("cifar100-5")["MAGMAX"]["mean"][0] = 0
    published.ablation("5")["MAGMAX"] = 0
    assert published.environments("cifar100-5")["MAGMAX"]["mean"][0] == 83
    assert published.ablation("5")["MAGMAX"] == 83


def test_sources():
    assert published.source("environments", "cifar100-20") == "arXiv:2605.20803, table 2"
    assert published.source("environments", "imagenet-r-50") == "arXiv:2605.20803, table 8"
    assert published.source("ablation", "5") == "arXiv:2605.20803, table 4"
    assert (
        published.source("supplement", "vit-l-14-webimagetext") == "arXiv:2407.06322, supplementary material, table 1"
    )


def test_what_was_not_published():
    with pytest.raises(ConfigError) as found:
        published.environments("cifar100-10")
    assert str(found.value) == (
        "paper.environments: no table was published for 'cifar100-10'. Did you mean 'cifar100-50'? There are "
        "cifar100-5, cifar100-20, cifar100-50, imagenet-r-5, imagenet-r-20, imagenet-r-50."
    )
    with pytest.raises(ConfigError, match=r"^paper\.ablation: no table was published for '7'\. There are 5, 20, 50\.$"):
        published.ablation("7")
    with pytest.raises(
        ConfigError,
        match=r"^paper\.column: the table of vit-b-16-laion400m has no column 'CIFAR100'\. Did you mean 'CIFAR100/5'\?",
    ):
        published.supplement("vit-b-16-laion400m", "CIFAR100")
