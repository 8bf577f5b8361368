"""Recipes of experiments: defaults of the papers, refusals that say what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.errors import ConfigError
from prefmerge.lab.entries import KNOWN, PAPERS
from prefmerge.lab.recipe import Experiment, read_experiment, training_config
from prefmerge.plotting import METHODS as STYLES


def read(tmp_path: Path, text: str) -> Experiment:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return read_experiment(file)


def test_the_defaults_are_the_papers(tmp_path: Path):
    recipe = read(tmp_path, "runs: [a, b]")
    assert recipe.scales == ("0.5",)
    assert recipe.environments.mixes == "papers"
    assert recipe.environments.variants == (42, 123, 456, 789, 1011)
    assert float(recipe.meta) == 0.1
    assert [recipe.size(t) for t in (5, 20, 50)] == [1000, 500, 200]  # section 4.3
    assert recipe.similarity.samples == 500
    assert recipe.similarity.of("ot") == {
        "solver": "sinkhorn",
        "regularization": 0.1,
        "iterations": 100,
        "gamma": 100.0,
    }
    assert recipe.similarity.of("cosine") == {"gamma": 50.0}
    assert recipe.similarity.of("mmd") == {"gamma": 100.0}
    assert recipe.diversity.counts == (1, 2, 3, 5, 10, 20)
    assert [one.name for one in recipe.entries()["diversity"]] == list(PAPERS)
    assert recipe.seeds == (3, 4, 5)
    assert recipe.search.patience == 10


def test_paths_are_beside_the_recipe_and_what_is_resolved_reads_back(tmp_path: Path):
    recipe = read(tmp_path, "runs: {sequential: run, independent: [one]}\nscales: [0.5, 1.0]\nmethods: all")
    assert recipe.runs == {"sequential": (str(tmp_path / "run"),), "independent": (str(tmp_path / "one"),)}
    assert recipe.scales == ("0.5", "1.0")
    assert recipe.title == "recipe"
    assert read(tmp_path, recipe.to_yaml()) == recipe


def test_every_method_has_a_look_of_its_own():
    styles = [STYLES[name] for name in KNOWN]  # KeyError: a method that would be drawn in grey
    assert len(set(styles)) == len(styles)


def test_a_method_of_ones_own(tmp_path: Path):
    text = "runs: [a]\nmethods: [MAGMAX, {name: Sharp, similarity: label, settings: {selection: optimal}}]"
    magmax, sharp = read(tmp_path, text).entries()["places"]
    assert magmax is KNOWN["MAGMAX"]
    assert (sharp.kind, sharp.similarity, sharp.settings) == ("preference", "label", {"selection": "optimal"})


def test_what_is_trained_differs_in_seed_and_training_alone(tmp_path: Path):
    (tmp_path / "tune.yaml").write_text("model: m\ndata: cifar100\nseed: 9\n")
    recipe = read(tmp_path, "finetune: tune.yaml\nseeds: [3, 4]\ntrainings: [sequential, lwf]")
    one, other = training_config(recipe, "sequential", 3), training_config(recipe, "lwf", 4)
    assert (one.seed, one.training.method, other.seed, other.training.method) == (3, "sequential", 4, "lwf")
    assert one.model_copy(update={"seed": 4, "training": other.training}) == other


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scales: [0.5]", "give either runs (folders that are there) or finetune"),
        ("runs: [a]\nfinetune: {model: m, data: d}", "give either runs"),
        ("runs: {independent: [a]}", "at least one sequential run is needed"),
        ("runs: {parallel: [a]}", "runs.parallel"),
        ("runs: [a]\nscale: 1.0", "unknown key 'scale'. Did you mean 'scales'?"),
        ("runs: [a]\nscales: [big]", "scales: expected a finite number such as 0.8 or 4/5, found 'big'"),
        ("runs: [a]\nmethods: [Magmax]", "methods: 'Magmax' is no method; did you mean 'MAGMAX'?"),
        ("runs: [a]\nscales: [-1]", "scales: -1 is negative"),
        ("runs: [a]\nalpha: {values: [-1]}", "alpha.values: an alpha cannot be negative"),
        ("runs: [a]\nsimilarity: {samples: 1}", "similarity.samples"),
        ("runs: [a]\nmethods: [{name: MAGMAX, settings: {method: average}}]", "choose another name"),
        ("runs: [a]\nmethods: [MAGMAX, MAGMAX]", "methods: 'MAGMAX' is there twice"),
        ("runs: [a]\nmethods: [{name: X, settings: {scale: 1}}]", "'scale' is not a method's own"),
        ("runs: [a]\nmethods: [{name: X, settings: {method: magmax, selection: optimal}}]", "has no use with method"),
        ("runs: [a]\nenvironments: {meta: 1}", "environments.meta: expected a number between 0 and 1, found 1"),
        ("runs: [a]\nenvironments: {variants: [1, 1]}", "environments.variants: the same number twice: [1, 1]"),
        ("runs: [a]\nenvironments: {mixes: [{name: e 1, ratios: [1]}]}", "environments.mixes"),
        ("runs: [a]\nenvironments: {mixes: [{name: m3, ratios: [1]}]}", "names such as m3 are those of the diversity"),
        ("runs: [a]\nsimilarity: {ot: {gama: 3}}", "Did you mean 'gamma'?"),
        ("runs: [a]\nstudies: [tables]", "studies"),
        ("finetune: {model: m, data: d}\ntrainings: [ewc]", "trainings: sequential is needed"),
        ("[a]", "expected a mapping with at least `runs` or `finetune`, found list"),
        ("runs: [", "cannot be read as YAML"),
    ],
)
def test_refusals(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "recipe.yaml"))
    assert said in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        read_experiment(tmp_path / "none.yaml")
