"""Several processes train what one does: gradients are averaged so that every sample weighs the same."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch

from prefmerge.runs import read_run
from prefmerge.training.finetuning import run_tasks
from tests.forks import begun
from tests.models.stubs import ToyEncoder, toy_head
from tests.training.test_finetuning import config, weights
from tests.training.test_kept import holding_out, kept_bytes


def train(out: Path) -> None:
    """Batches of 5 over 2 processes: parts of 3 and 2; the last batch of a task, of 1, leaves one process without."""
    scenario = holding_out()
    asked = config("ewc", epochs=3, augmentation=False, save_every=1)
    run_tasks(scenario, ToyEncoder(dropout=0.0), lambda: toy_head(scenario), asked, out)


def train_as(rank: str, usual: dict[str, str], out: Path) -> None:
    os.environ |= {**usual, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
    train(out)


def test_two_processes_end_where_one_does(tmp_path: Path):
    """They find one another as those do that `accelerate launch` starts on GPUs; without them it starts one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    usual = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    said = [tmp_path / f"said-{rank}" for rank in range(2)]
    both = [begun(train_as, str(rank), usual, tmp_path / "two", said=said[rank]) for rank in range(2)]
    for process, printed in zip(both, said, strict=True):
        process.join(300)
        assert process.exitcode == 0, printed.read_text()
    train(tmp_path / "one")
    two = read_run(tmp_path / "two")
    assert two.finished
    assert two.about["processes"] == 2
    assert kept_bytes(tmp_path / "two") == kept_bytes(tmp_path / "one")  # the main process writes it
    for index in range(3):
        a, b = weights(read_run(tmp_path / "one").task_path(index)), weights(two.task_path(index))
        # Sums of gradients in another order, over 12 steps a task of at most 0.01.
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
        start = weights(two.base_path)
        assert any(float((b[name] - start[name]).abs().max()) > 0.02 for name in b)
