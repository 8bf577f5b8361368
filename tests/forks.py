"""Processes that have torch loaded when they begin, for tests that kill them in the midst of their work.

A new Python imports for four seconds before a command that needs torch does anything, and a kill in this time tries
nothing. Each process here is a fork of one that has imported what commands import and has done nothing since
(multiprocessing's "forkserver": one for each process of tests, which ends with it), in the folder and the environment
of the test. Not here: what a process does from its very beginning, such as what it imports and within which limits;
that takes a new Python (`tests.field.attacked.script`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LOADED = [
    "prefmerge.cli.app",
    "prefmerge.merging.many",
    "prefmerge.target.adapt",
    "prefmerge.target.search.by_score",
    "prefmerge.training.finetuning",
    "prefmerge.lab.work",
    "transformers.models.bert.modeling_bert",
    "sklearn.linear_model",
    "optuna",
    "ot",
]


def context() -> ForkServerContext:
    """For processes that code under test starts: in place of the one for which it asks with `get_context`."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(LOADED)
    return found


def begun(work: Callable[..., object], *given: Any, said: Path | None = None) -> BaseProcess:
    """A process that does `work`, which a module of tests has. `said`: the file that gets what it prints; None: nobody.
    Its `exitcode` is below 0 where a signal ended it.
    """
    process = context().Process(target=_work, args=(work, given, os.getcwd(), dict(os.environ), said))
    process.start()
    return process


def command(*words: str, before: str = "", said: Path | None = None) -> BaseProcess:
    """A process that runs the command line, after the code `before`."""
    return begun(_command, words, before, said=said)


def _work(
    work: Callable[..., object], given: tuple[Any, ...], folder: str, environment: dict[str, str], said: Path | None
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    printed = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    work(*given)


def _command(words: tuple[str, ...], before: str) -> None:
    from prefmerge.cli import main

    exec(before, {})
    sys.argv = ["prefmerge", *words]
    main()
