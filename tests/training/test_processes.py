"""Several processes train what one does: gradients are averaged so that every sample weighs the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from prefmerge.runs import read_run
from prefmerge.training.finetuning import run_tasks
from tests.models.stubs import ToyEncoder, toy_head
from tests.training.test_finetuning import config, weights
from tests.training.test_kept import holding_out, kept_bytes

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.training.test_processes import train
train(Path(sys.argv[1]))
"""


def train(out: Path) -> None:
    """Batches of 5 over 2 processes: parts of 3 and 2; the last batch of a task, of 1, leaves one process without."""
    scenario = holding_out()
    asked = config("ewc", epochs=3, augmentation=False, save_every=1)
    run_tasks(scenario, ToyEncoder(dropout=0.0), lambda: toy_head(scenario), asked, out)


def test_two_processes_end_where_one_does(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # What `accelerate launch` comes to on GPUs; without them it starts a single process, whatever it is asked for.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = Path(__file__).parents[2]
    command = [*launch, str(tmp_path / "script.py"), str(tmp_path / "two"), str(root)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
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
