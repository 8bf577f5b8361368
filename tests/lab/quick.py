"""What tests put in place of slow parts that they do not look at."""

from __future__ import annotations

from typing import Any

from prefmerge.lab.trainings import RunToTrain, Watch
from prefmerge.target import pool

candidates = pool.candidates
ONE_L2 = (3.0,)  # in place of `target.choice.L2`: one strength of the rows to try; test_proxy_and_choice.py has all


def train_all(todo: list[RunToTrain], at_once: int, watch: Watch) -> None:
    """In place of `lab.trainings._train_all`: one after the other, in this process. A process for each loads torch
    first, which takes longer; tests/lab/test_bench.py and tests/field/test_experiments.py start them.
    """
    from prefmerge.training.config_file import read_config
    from prefmerge.training.finetuning import finetune

    for one in todo:
        finetune(read_config(one.file), one.folder)


def two_candidates(*mix: Any) -> list[pool.Candidate]:
    """In place of `target.adapt.candidates`: one checkpoint and one merge to choose from, where there would be a dozen
    to judge; tests/target/test_pool.py says which.
    """
    every = candidates(*mix)
    return [every[0], next(one for one in every if not one.single)]
