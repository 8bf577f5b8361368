"""A whole encoder in a few lines, over vectors, for tests of what stands on the protocol: no transformers, no files.

    embedding(x) = W2 tanh(W1 x + b1),   x: D numbers

`ToyEncoder` saves and loads as real ones do, and counts what it was asked for. `toy_scenario` draws Gaussian clusters,
one per class. Shapes: inputs (D,) arrays, embeddings (N, E). Not here: a text side, unless phrases are given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xxhash
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefmerge.config import make_config
from prefmerge.data.examples import Examples
from prefmerge.data.scenarios import ClassInfo, Scenario, Task
from prefmerge.errors import CheckpointMismatch
from prefmerge.models.encoders.protocol import Augmentation, Encoder
from prefmerge.models.heads import Head
from prefmerge.runs import Run, RunTask, Training
from prefmerge.training.samples import samples_of

D, E = 6, 4  # numbers of an input, of an embedding


class ToyTower(nn.Module):
    """Two layers with dropout between them: in training mode it gives other numbers than in evaluation."""

    def __init__(self, inputs: int = D, hidden: int = 5, width: int = E, dropout: float = 0.5) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.first(x))))


class ToyEncoder(Encoder):
    """`prepared` counts the inputs that were prepared: those that a cache did not spare."""

    tower: ToyTower  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        seed: int = 0,
        *,
        dropout: float = 0.5,
        vocabulary: Mapping[str, Sequence[float]] | None = None,
        preprocessing: str = "as they are",
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tower = ToyTower(dropout=dropout)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.kind = "image"
        self.name = "toy"
        self.width = E
        self.logit_scale = 10.0
        self.preprocessing = preprocessing
        self.vocabulary = vocabulary  # phrase -> its embedding
        self.prepared = 0

    def prepare(
        self, inputs: Sequence[Any], augmentation: Augmentation | None = None, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        self.prepared += len(inputs)
        x = np.array([np.asarray(one, np.float32) for one in inputs]).reshape(len(inputs), D)
        if augmentation is not None:
            assert seeds is not None
            assert len(seeds) == len(inputs)
            noise = [np.random.default_rng(seed).standard_normal(D) for seed in seeds]
            x = x + 0.05 * np.array(noise, np.float32)
        return {"x": torch.from_numpy(x)}

    def keep(self, inputs: Sequence[Any]) -> tuple[str, list[Any]]:
        """As arrays, as the demo's encoder does."""
        return "array", [np.asarray(one, np.float32) for one in inputs]

    def phrases(self, phrases: Sequence[str]) -> Tensor | None:
        if self.vocabulary is None:
            return None
        return torch.tensor([list(self.vocabulary[phrase]) for phrase in phrases], dtype=torch.float32)

    def state(self) -> dict[str, Tensor]:
        return dict(self.tower.state_dict())

    def load(self, checkpoint: Path) -> None:
        result = load_file(checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint)
        if set(result) != set(self.state()):
            raise CheckpointMismatch(f"{checkpoint}: other tensors than the toy's: {sorted(result)}.")
        self.tower.load_state_dict(result)

    def save(self, folder: Path) -> None:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in self.state().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "toy"}) + "\n", encoding="utf-8")


def toy_examples(inputs: np.ndarray, labels: Sequence[int] | np.ndarray, prefix: str = "sample") -> Examples:
    """Labelled vectors (N, D) in memory."""
    return Examples(
        ids=tuple(f"{prefix}-{i}" for i in range(len(inputs))),
        labels=np.asarray(labels, np.int64),
        read=lambda at: [inputs[i] for i in at],
        fingerprint=lambda at: xxhash.xxh3_64_hexdigest(np.ascontiguousarray(inputs[list(at)]).tobytes()),
    )


def toy_scenario(
    tasks: int = 3, classes_per_task: int = 2, train: int = 8, test: int | Sequence[int] = 5, seed: int = 0
) -> Scenario:
    """Class-incremental tasks over Gaussian clusters; `train` and `test` samples per class (`test`: of each task)."""
    rng = np.random.default_rng(seed)
    count = tasks * classes_per_task
    centres = rng.standard_normal((count, D)) * 1.5
    sizes = [test] * tasks if isinstance(test, int) else list(test)

    def drawn(classes: Sequence[int], n: int, prefix: str) -> Examples:
        labels = np.repeat(np.asarray(classes), n)
        return toy_examples(
            (centres[labels] + rng.standard_normal((len(labels), D))).astype(np.float32), labels, prefix
        )

    made = []
    for t in range(tasks):
        own = tuple(range(t * classes_per_task, (t + 1) * classes_per_task))
        made.append(
            Task(
                f"task-{t + 1}",
                own,
                tuple(range(count)),
                drawn(own, train, f"train-{t}"),
                drawn(own, sizes[t], f"test-{t}"),
            )
        )
    names = [ClassInfo(f"class {c}", (f"class {c}",)) for c in range(count)]
    return Scenario("class-incremental", "image", tuple(names), tuple(made))


def toy_head(scenario: Scenario, seed: int = 0, width: int = E) -> Head:
    """A frozen head of random unit rows."""
    rows = np.random.default_rng(seed).standard_normal((len(scenario.classes), width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Head(
        rows=cast(Tensor, torch.from_numpy(rows.astype(np.float32))),
        scale=10.0,
        classes=tuple(one.name for one in scenario.classes),
        kind="prototype",
    )


def toy_run(folder: Path, scenario: Scenario, training: Training = "sequential") -> Run:
    """A run's folder, as fine-tuning writes it, of encoders that were not trained: theta_t is `ToyEncoder(t)`."""
    tasks = [task.name for task in scenario.tasks] if training != "joint" else ["joint"]
    run = Run(
        folder,
        training,
        "base",
        tuple(RunTask(name, f"tasks/{name}") for name in tasks),
        "head.safetensors",
    )
    (folder / "tasks").mkdir(parents=True)
    ToyEncoder(0).save(run.base_path)
    for t in range(len(tasks)):
        ToyEncoder(t + 1).save(run.task_path(t))
    toy_head(scenario).save(folder / "head.safetensors")
    (folder / "run.json").write_text(json.dumps(run.to_json()))
    (folder / "config.yaml").write_text(make_config({"model": "toy", "data": "vectors", "seed": 7}).to_yaml())
    (folder / "samples.json").write_text(json.dumps(samples_of(scenario)))
    return run
