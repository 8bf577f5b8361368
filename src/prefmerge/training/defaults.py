"""What a configuration of fine-tuning leaves to a default: the papers' values, those for other data, or the run's own.

A run keeps its configuration with every default spelled out, so that another version of prefmerge resumes it as it
began. Cost: none. Not here: reading and comparing configurations (`config_file`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefmerge.config import FinetuneConfig
from prefmerge.data.registry import registered
from prefmerge.data.scenarios import Scenario
from prefmerge.errors import ConfigError
from prefmerge.ground.words import counted
from prefmerge.training.job import Job

if TYPE_CHECKING:
    from prefmerge.models.encoders.protocol import Encoder


def as_begun(config: FinetuneConfig, kept: FinetuneConfig) -> FinetuneConfig:
    """The configuration with what it leaves to a default as the run has it: defaults change from version to version."""
    asked, old = config.training, kept.training
    update: dict[str, Any] = {}
    if asked.epochs is None:
        update["epochs"] = old.epochs
    if asked.warmup_steps is None and asked.warmup_fraction is None:
        update |= {"warmup_steps": old.warmup_steps, "warmup_fraction": old.warmup_fraction}
    data = tuple(
        one.model_copy(update={"skip": before.skip}) for one, before in zip(config.data, kept.data, strict=True)
    )
    return config.model_copy(
        update={
            "data": data,
            "training": asked.model_copy(update=update),
            "held_out": kept.held_out if config.held_out is None else config.held_out,
        }
    )


def resolved(config: FinetuneConfig, scenario: Scenario, encoder: Encoder) -> FinetuneConfig:
    """The configuration with the values that were left to a default spelled out."""
    from prefmerge.training.steps import EPOCHS, WARMUP_FRACTION, WARMUP_STEPS

    training, data = config.training, config.data
    chosen: dict[str, Any] = {}
    own = [task.epochs for task in scenario.tasks]
    if training.epochs is None:
        chosen["epochs"] = own[0] if own[0] is not None and len(set(own)) == 1 else EPOCHS
    if len(data) == len(own) > 1:  # a task is a data set
        data = tuple(one.model_copy(update={"epochs": epochs}) for one, epochs in zip(data, own, strict=True))
    if training.warmup_steps is None and training.warmup_fraction is None:
        papers = all(registered(one.name) is not None for one in data)
        chosen |= {"warmup_steps": WARMUP_STEPS} if papers else {"warmup_fraction": WARMUP_FRACTION}
    held_out = tuple(len(task.held_out) for task in scenario.tasks)
    return config.model_copy(
        update={
            "data": data,
            "training": training.model_copy(update=chosen),
            "held_out": held_out[0] if len(set(held_out)) == 1 else held_out,
        }
    )


def epochs_of(config: FinetuneConfig) -> int:
    """The epochs of tasks that have none of their own."""
    if config.training.epochs is None:
        raise ConfigError("training.epochs is missing: resolve the configuration first.")
    return config.training.epochs


def of_warm_up(job: Job) -> list[str]:
    """What to say where the warm-up is as long as a task: its learning rate never reaches what was asked for."""
    from prefmerge.training.steps import warm_steps

    config = job.config.training
    steps = [(task.epochs or epochs_of(job.config)) * -(-len(task.train) // config.batch) for task in job.tasks]
    named = [(n, warm_steps(config, n), task.name) for n, task in zip(steps, job.tasks, strict=True)]
    short = [one for one in named if one[0] <= one[1]]
    if not short or config.warmup_fraction is not None:
        return []
    n, warm, name = min(short)
    return [
        f"the warm-up of {warm} steps takes all of {counted(len(short), 'task')} of {len(steps)}: {name} has "
        f"{counted(n, 'step')}, and its learning rate reaches {config.learning_rate * n / warm:.1g} of "
        f"{config.learning_rate:g}. If this is not meant, start again with `training: {{warmup_fraction: 0.1}}`."
    ]
