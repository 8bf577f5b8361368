"""Continual fine-tuning and evaluation: what both papers do before they merge. Needs the extra `train`.

    config -> data -> scenario (tasks) -> encoder + frozen head -> training -> run folder -> evaluation

    from prefmerge import continual
    run = continual.finetune(continual.read_config("cifar100.yaml"), "my-run")
    print(continual.evaluate_checkpoint("merged", "my-run").to_json())

Importing this loads no torch; the modules below import it where they need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefmerge.continual.config import FinetuneConfig, make_config, read_config
    from prefmerge.continual.encoders import Encoder, load_encoder
    from prefmerge.continual.evaluation import evaluate, evaluate_checkpoint, evaluate_matrix, open_run
    from prefmerge.continual.finetuning import finetune, run_tasks
    from prefmerge.continual.heads import Head

_HOMES = {
    "Encoder": "encoders",
    "FinetuneConfig": "config",
    "Head": "heads",
    "evaluate": "evaluation",
    "evaluate_checkpoint": "evaluation",
    "evaluate_matrix": "evaluation",
    "finetune": "finetuning",
    "load_encoder": "encoders",
    "make_config": "config",
    "open_run": "evaluation",
    "read_config": "config",
    "run_tasks": "finetuning",
}

__all__ = [
    "Encoder",
    "FinetuneConfig",
    "Head",
    "evaluate",
    "evaluate_checkpoint",
    "evaluate_matrix",
    "finetune",
    "load_encoder",
    "make_config",
    "open_run",
    "read_config",
    "run_tasks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prefmerge.continual' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"prefmerge.continual.{_HOMES[name]}"), name)
