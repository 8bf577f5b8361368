"""Configurations: the papers' numbers, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from prefmerge.config import make_config
from prefmerge.errors import ConfigError

LEAST = {"model": "a/b", "data": "cifar100"}


def test_the_papers_recipe_is_the_default():
    training = make_config(LEAST).training
    assert (training.method, training.batch, training.learning_rate, training.weight_decay) == (
        "sequential",
        128,
        1e-5,
        0.1,
    )
    assert (training.clip_norm, training.precision, training.crop_scale) == (1.0, "no", (0.9, 1.0))
    assert (training.lwf.coefficient, training.lwf.temperature) == (0.3, 2.0)
    assert (training.ewc.coefficient, training.ewc.decay, training.ewc.fisher_samples) == (1e6, 0.5, None)


def test_a_configuration_reads_back_as_itself():
    whole = make_config({**LEAST, "training": {"warmup_fraction": 0.2, "ewc": {"decay": 0.1}}, "seed": 9})
    assert make_config(yaml.safe_load(whole.to_yaml())) == whole


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainin": {}}, "unknown key 'trainin'. Did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'. Did you mean 'epochs'?"),
        (
            {"training": {"lwf": {"temperatur": 3}}},
            "unknown key 'training.lwf.temperatur'. Did you mean 'temperature'?",
        ),
        ({"zzz": 1}, "unknown key 'zzz'. Known: model, data, scenario, head, training, held_out, seed."),
        ({"model": ...}, "'model' is missing."),
        ({"training": {"epochs": 0}}, "training.epochs: input should be greater than 0, found 0."),
        ({"training": {"method": "magmax"}}, "training.method: input should be 'sequential', 'independent', 'joint'"),
        (
            {"training": {"warmup_steps": 5, "warmup_fraction": 0.1}},
            "training: warmup_steps and warmup_fraction say the same thing twice; give one.",
        ),
        ({"training": {"crop_scale": [0.9, 0.1]}}, "crop_scale must be 0 < low <= high <= 1, found [0.9, 0.1]"),
        (
            {"data": {"name": "x", "templates": ["a photo"]}},
            "data.0.templates: the template 'a photo' needs exactly one {}, where the class name goes",
        ),
        ({"data": []}, "data: tuple should have at least 1 item"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: input should be a finite number"),
        ({"seed": 2**40}, "seed: input should be less than 4294967296"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, found -1."),
    ],
)
def test_what_is_refused(changes: dict[str, Any], said: str):
    whole = {key: value for key, value in {**LEAST, **changes}.items() if value is not ...}
    with pytest.raises(ConfigError) as raised:
        make_config(whole, "run.yaml")
    assert str(raised.value).startswith("run.yaml: ")
    assert said in str(raised.value)


def test_samples_held_out_are_a_number_or_one_for_each_task():
    assert make_config(LEAST).held_out is None
    for asked, read in ((0, 0), (7, 7), ([3, 0], (3, 0)), (None, None)):
        result = make_config({**LEAST, "held_out": asked})
        assert result.held_out == read
        assert make_config(yaml.safe_load(result.to_yaml())) == result
    for wrong in (-1, 2.5, True, "auto", [], [1, -1], {"a": 1}):
        with pytest.raises(ConfigError, match="held_out: expected a number of samples of each task"):
            make_config({**LEAST, "held_out": wrong})
