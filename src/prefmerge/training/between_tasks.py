"""What a task hands to the next one under LwF and EWC: the old model, or its weights and how much each matters.

    F_t = blended(F_{t-1}, Fisher information of task t)      in the run's folder until the next task is done

Cost: LwF: a copy of the tower. EWC: a backward pass for every sample that F is measured on, and two copies of the
tower's parameters. Not here: the formulas (`regularisers`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.data.examples import Examples
from prefmerge.errors import RunError
from prefmerge.ground import atomic
from prefmerge.training import run_folder
from prefmerge.training.batches import order_of, targets_of
from prefmerge.training.job import Job, TrainingProgress

if TYPE_CHECKING:
    from torch import Tensor

    from prefmerge.models.heads import Head
    from prefmerge.training.regularisers import Regulariser

FISHER_REPORTS = 100  # samples between two reports


def regulariser_of(job: Job, index: int, head: Head) -> Regulariser | None:
    """What LwF or EWC add to the loss of task `index` > 0; the tower holds theta_{index - 1}."""
    from prefmerge.training.regularisers import Ewc, Lwf

    config = job.config.training
    device = job.device
    if config.method == "lwf":
        import copy

        old = copy.deepcopy(job.encoder.tower).to(device).eval().requires_grad_(False)
        seen = sorted({c for task in job.tasks[:index] for c in task.classes})
        return Lwf(old, head.to(device), seen, config.lwf, config.logit_scale)
    if config.method == "ewc":
        anchor = {
            name: p.detach().clone().to(device) for name, p in job.encoder.tower.named_parameters() if p.requires_grad
        }
        return Ewc(anchor, {n: f.to(device) for n, f in _load_fisher(job.out, index - 1).items()}, config.ewc)
    return None


def _load_fisher(out: Path, index: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file = run_folder.fisher_file(out, index)
    if not file.is_file():
        raise RunError(f"{file}: EWC's Fisher information of the task before is missing. Start over with --force.")
    return load_file(file)


def keep_fisher(job: Job, index: int, head: Head) -> None:
    """F after task `index`: blended with the one before, which is kept until the manifest counts the task as done."""
    from safetensors.torch import save
    from torch.nn import functional

    from prefmerge.training.regularisers import blended, fisher
    from prefmerge.training.steps import torch_threads

    task, config, device = job.tasks[index], job.config.training, job.device
    examples = some_of(task.train, config.ewc.fisher_samples, job.seed(index))
    targets, head = targets_of(examples, task.classes), head.to(device)
    job.encoder.tower.to(device)

    def batches() -> Any:
        import torch

        for start in range(0, len(examples), 64):  # read together, differentiated one by one
            at = list(range(start, min(start + 64, len(examples))))
            batch = job.encoder.prepare(examples.read(at))
            labels = torch.tensor([targets[i] for i in at], device=device)
            yield {name: tensor.to(device) for name, tensor in batch.items()}, labels

    def loss(embeddings: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(head.logits(embeddings, task.classes, config.logit_scale), label)

    def counted(done: int) -> None:
        if done % FISHER_REPORTS == 0 or done == len(examples):
            job.progress(TrainingProgress(index, task.name, len(job.tasks), fisher=(done, len(examples))))

    with torch_threads(config.threads):
        new = fisher(job.encoder.tower, batches(), loss, counted)
    old = _load_fisher(job.out, index - 1) if index else None
    kept = blended(old, {name: f.cpu() for name, f in new.items()}, config.ewc.decay)
    atomic.write_whole(run_folder.fisher_file(job.out, index), save({name: f.contiguous() for name, f in kept.items()}))


def some_of(examples: Examples, count: int | None, seed: int) -> Examples:
    """`count` samples drawn without replacement, or all."""
    if count is None or count >= len(examples):
        return examples
    return examples.take(sorted(order_of(len(examples), seed, 0)[:count]))
