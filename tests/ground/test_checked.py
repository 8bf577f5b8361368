"""Values checked by pydantic, and its errors in our words."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from prefmerge.errors import DataError
from prefmerge.ground.checked import MOST, checked


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    ids: list[int] = []


class Whole(BaseModel):
    parts: list[Part]


def refused(value: object) -> list[str]:
    with pytest.raises(DataError) as raised:
        checked(Whole, value, "w.json", DataError)
    return str(raised.value).splitlines()


def test_each_error_is_a_line_that_begins_with_the_file():
    assert checked(Whole, {"parts": [{"name": "a"}]}, "w.json", DataError) == Whole(parts=[Part(name="a")])
    assert refused({"parts": [{"nome": "a"}, 3]}) == [
        "w.json: 'parts.0.name' is missing.",
        "w.json: unknown key 'parts.0.nome'. Did you mean 'name'?",
        "w.json: parts.1: expected keys with values, found 3.",
    ]
    assert refused([]) == ["w.json: the top level: expected keys with values, found []."]


def test_a_file_of_many_errors_does_not_fill_the_screen():
    lines = refused({"parts": [{"name": "a", "ids": ["x"] * 1000}]})
    assert len(lines) == MOST + 1
    assert lines[-1] == f"w.json: and {1000 - MOST} more errors."
