"""The number format in an output's config.json is that of its weights, whichever key says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge

CASES = [  # before, after
    ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),  # transformers before version 5
    ({"dtype": "float32"}, {"dtype": "bfloat16"}),
    ({"dtype": "float32", "torch_dtype": None}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
    (
        {"model_type": "clip", "text_config": {"dtype": "float16"}, "vision_config": {"torch_dtype": "float16"}},
        {"model_type": "clip", "text_config": {"dtype": "bfloat16"}, "vision_config": {"torch_dtype": "bfloat16"}},
    ),
    ({"model_type": "bert"}, {"model_type": "bert"}),  # transformers then asks the weights
]


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    for seed, name in enumerate(("base", "cars")):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
        save_file({"w": values}, tmp_path / name / "model.safetensors")
    return [tmp_path / "base", tmp_path / "cars"]


def config_of(inputs: list[Path], content: Any, **given: Any) -> Any:
    (inputs[0] / "config.json").write_text(json.dumps(content))
    prefmerge.merge(inputs[0], inputs[1:], inputs[0].with_name("out"), **given)
    return json.loads((inputs[0].with_name("out") / "config.json").read_text())


@pytest.mark.parametrize(("before", "after"), CASES)
def test_the_key_that_is_there_says_the_new_format(before: Any, after: Any, inputs: list[Path]) -> None:
    assert config_of(inputs, before, dtype="bfloat16") == after


@pytest.mark.parametrize(("before", "_"), CASES)
def test_without_another_format_nothing_changes(before: Any, _: Any, inputs: list[Path]) -> None:
    assert config_of(inputs, before) == before


def test_a_task_vector_is_float32(inputs: list[Path]) -> None:
    assert config_of(inputs, {"torch_dtype": "float16"}, method="last", as_task_vector=True) == {
        "torch_dtype": "float32"
    }


@pytest.mark.parametrize("content", [[], "text", {"dtype": {"of": "parts"}}])
def test_what_says_no_format_is_left_alone(content: Any, inputs: list[Path]) -> None:
    assert config_of(inputs, content, dtype="float16") == content
