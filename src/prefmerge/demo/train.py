"""Sequential fine-tuning: theta_t starts from theta_{t-1} and learns task t alone; a run folder of real checkpoints.

Recipe of both papers (AdamW made anew for each task, weight decay 0.1, cosine after a linear warm-up, gradient norm
clipped at 1.0, frozen head restricted to the task's classes), shortened: `Regime` says how,
`benchmarks/demo_regimes.py` why. One CPU thread, so that a seed gives the same bytes on one machine. Cost: about 4 s a
task. Leaves out: independent and joint training, augmentation, resuming.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.demo.digits import NAMES, TASKS, Digits
from prefmerge.demo.model import logits

if TYPE_CHECKING:
    from torch import Tensor

RUN_FORMAT = "prefmerge-run/1"


@dataclass(frozen=True)
class Regime:
    """How every task is fine-tuned. The defaults were chosen on validation images of places that are not shown."""

    learning_rate: float = 1e-4
    epochs: int = 5
    logit_scale: float = 10.0  # half the base's: a two-class loss that keeps its gradient longer
    batch: int = 32
    warmup: float = 0.1  # of a task's steps; the papers' fixed 500 would outlast every task here
    weight_decay: float = 0.1
    clip: float = 1.0  # norm of all gradients together


Progress = Callable[[int, int, int], None]  # task, step, steps of the task


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, then as before: how sums are split among threads changes their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fine_tune(
    start: Mapping[str, Tensor],
    head: Tensor,
    images: Tensor,
    labels: Tensor,
    classes: Sequence[int],
    regime: Regime,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """The weights after one task. Cross-entropy over `classes` only, of which all `labels` (N,) must be."""
    import torch
    from torch.nn import functional

    place_of = torch.full((len(head),), -1)
    place_of[list(classes)] = torch.arange(len(classes))
    targets = place_of[labels]
    if int(targets.min()) < 0:
        raise ValueError(f"labels {sorted(set(labels.tolist()))} are not all among the task's classes {list(classes)}")
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in start.items()}
    leaves = list(weights.values())
    optimizer = torch.optim.AdamW(leaves, lr=regime.learning_rate, weight_decay=regime.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(images) / regime.batch)
    steps, step = batches * regime.epochs, 0
    warm = max(1, round(regime.warmup * steps))
    with one_thread():
        for _ in range(regime.epochs):
            for chosen in torch.randperm(len(images), generator=generator).split(regime.batch):
                cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
                for group in optimizer.param_groups:
                    group["lr"] = regime.learning_rate * min((step + 1) / warm, cosine)
                loss = functional.cross_entropy(
                    logits(weights, head, images[chosen], classes, regime.logit_scale), targets[chosen]
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(leaves, regime.clip)
                optimizer.step()
                step += 1
                if on_step:
                    on_step(step, steps)
    return {name: tensor.detach() for name, tensor in weights.items()}


def fine_tune_in_sequence(
    base: Mapping[str, Tensor],
    head: Tensor,
    digits: Digits,
    regime: Regime,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Tensor]]:
    """theta_1..theta_T. Task t shuffles with a seed of its own: a checkpoint knows nothing of those that follow."""
    states: list[dict[str, Tensor]] = []
    for t, classes in enumerate(TASKS):
        images, labels = digits.tensors(digits.ids("train", t))

        def on_step(step: int, steps: int, t: int = t) -> None:
            if progress:
                progress(t, step, steps)

        states.append(
            fine_tune(states[-1] if states else base, head, images, labels, classes, regime, seed * 1000 + t, on_step)
        )
    return states


def write_run(
    out: Path,
    base: Mapping[str, Tensor],
    head: Tensor,
    tasks: Sequence[Mapping[str, Tensor]],
    digits: Digits,
    about: Mapping[str, Any],
) -> tuple[Path, list[Path]]:
    """Write base, head, tasks and run.json into `out`; returns the base's path and the tasks' paths, in order."""
    from safetensors.torch import save

    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.safetensors" for name in NAMES]
    # Written by hand: save_file gives its files the permissions of temporary ones.
    (out / "base.safetensors").write_bytes(save(dict(base)))
    (out / "head.safetensors").write_bytes(save({"head.weight": head}))
    for state, file in zip(tasks, files, strict=True):
        file.write_bytes(save(dict(state)))
    manifest = {
        "format": RUN_FORMAT,
        "training": "sequential",
        "base": "base.safetensors",
        "head": "head.safetensors",
        "tasks": [
            {
                "name": name,
                "file": file.name,
                "classes": list(classes),
                "label_counts": {str(y): n for y, n in digits.label_counts(digits.ids("train", t)).items()},
            }
            for t, (name, file, classes) in enumerate(zip(NAMES, files, TASKS, strict=True))
        ],
        **about,
    }
    (out / "run.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return out / "base.safetensors", files
