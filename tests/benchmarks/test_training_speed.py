"""The benchmark of training's speed, at toy size."""

from __future__ import annotations

from benchmarks import training_speed


def test_training_speed_compares_loops_that_end_alike():
    parts = training_speed.make_parts(2, 32, 24, 6, 3, 50)
    measured = training_speed.measure(parts, 8, 1, 2)
    assert measured["apart"] < training_speed.MOST_APART
    assert measured["ratio"]["runs"] == 2
