"""What keeps a model near the one before it: Learning without Forgetting and Elastic Weight Consolidation.

    LwF   + c * -sum_k q_k log p_k,  q, p = softmax(old / T), softmax(new / T) over the old classes     (each sample)
    EWC   + c / 2 * sum_i F_i (theta_i - anchor_i)^2,  F_i = mean over samples of (d log p(y | x) / d theta_i)^2

Source: Li and Hoiem 2016 (without their factor T^2, as MAGMAX's baseline has it); Kirkpatrick et al. 2017 with the
diagonal empirical Fisher; F <- decay F + (1 - decay) F_task over tasks, MAGMAX's. The squares are those of single
samples: the square of a gradient that was summed over a batch, as in the authors' released code, is another number.
Shapes: N samples, E numbers of an embedding; F and anchor as the parameters. Cost: LwF one forward pass of the old
model a step; EWC a few passes over the parameters a step and, per task, one backward pass for every single sample;
memory of one copy of the model (LwF) or two (EWC). Not here: the old tower's device, the mean over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prefmerge.config import EwcConfig, LwfConfig
from prefmerge.errors import CheckpointMismatch, DataError
from prefmerge.models.encoders.protocol import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from prefmerge.models.heads import Head


class Regulariser:
    """Adds nothing: plain fine-tuning. What is None costs nothing and changes no bit of the gradients."""

    def per_sample(self, batch: Batch, embeddings: Tensor) -> Tensor | None:
        """What is added to the cross-entropy of each sample, (N,); `embeddings` (N, E) are the trained tower's of
        `batch`.
        """
        return None

    def per_step(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        """What is added once per optimiser step, a scalar, however many pieces its batch comes in."""
        return None


class Lwf(Regulariser):
    """Cross-entropy between the old model's and the new model's softmax over the old classes.

    `old_tower` is a copy of the tower as the task before left it, on the device of the batches; it is put into eval
    mode and frozen. `old_classes` are rows of `head`; none, or coefficient 0, adds nothing. `scale` is the logit scale
    of the training loss; None: the head's own.
    """

    def __init__(
        self,
        old_tower: nn.Module,
        head: Head,
        old_classes: Sequence[int],
        config: LwfConfig,
        scale: float | None = None,
    ) -> None:
        self._old = old_tower.eval().requires_grad_(False)
        self._head = head
        self._classes = tuple(old_classes)
        self._config = config
        self._scale = scale

    def per_sample(self, batch: Batch, embeddings: Tensor) -> Tensor | None:
        import torch

        if self._config.coefficient == 0 or not self._classes:
            return None
        with torch.no_grad():
            before = self._head.logits(self._old(**batch), self._classes, self._scale)
        now = self._head.logits(embeddings, self._classes, self._scale)
        wanted = (before / self._config.temperature).softmax(dim=1)
        got = (now / self._config.temperature).log_softmax(dim=1)
        return -self._config.coefficient * (wanted * got).sum(dim=1)


class Ewc(Regulariser):
    """A quadratic penalty on leaving `anchor`, the parameters as the task before left them, weighed by `fisher`.

    Both map the names of parameters to tensors of their shape. Parameters without Fisher information move freely;
    coefficient 0 adds nothing. Raises CheckpointMismatch where names or shapes do not agree.
    """

    def __init__(self, anchor: Mapping[str, Tensor], fisher: Mapping[str, Tensor], config: EwcConfig) -> None:
        _same_tensors("the anchor", anchor, "the Fisher information", fisher)
        # Copies: an anchor that shares the parameters' memory would move with them, and the penalty would stay zero.
        self._anchor = {name: anchor[name].detach().clone() for name in fisher}
        self._fisher = {name: weight.detach() for name, weight in fisher.items()}
        self._config = config

    def per_step(self, parameters: Mapping[str, Tensor]) -> Tensor | None:
        import torch

        if self._config.coefficient == 0 or not self._fisher:
            return None
        _same_tensors("the model", parameters, "the Fisher information", self._fisher)
        terms: list[Tensor] = []
        for name in self._fisher:
            parameter = parameters[name]
            # Kept where the parameters are: moved in the first step and never again.
            self._anchor[name] = self._anchor[name].to(parameter.device)
            self._fisher[name] = self._fisher[name].to(parameter.device)
            terms.append((self._fisher[name] * (parameter - self._anchor[name]).square()).sum())
        return self._config.coefficient / 2 * torch.stack(terms).sum()


def fisher(
    tower: nn.Module,
    batches: Iterable[tuple[Batch, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """The diagonal empirical Fisher information of the tower's trainable parameters, by name, each of its own shape.

    `batches` give inputs and labels (N,) on the tower's device; they are taken apart, since only a sample's own
    gradient may be squared. `loss` takes one sample's embedding (1, E) and label (1,) and returns its negative
    log-likelihood, a scalar. Computed in eval mode, in the parameters' precision but at least float32; the modes and
    gradients of the tower stay as they were. `progress` is called with the number of samples done. A parameter that no
    loss depends on gets zeros. Raises DataError when there is no sample.
    """
    import torch

    parameters = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    totals = {name: torch.zeros_like(p, dtype=_at_least_single(p.dtype)) for name, p in parameters.items()}
    modes = [(module, module.training) for module in tower.modules()]
    count = 0
    tower.eval()
    try:
        with torch.enable_grad():
            for batch, labels in batches:
                for i in range(len(labels)):
                    one = {key: value[i : i + 1] for key, value in batch.items()}
                    value = loss(tower(**one), labels[i : i + 1])
                    gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                    for total, gradient in zip(totals.values(), gradients, strict=True):
                        if gradient is not None:
                            own = gradient.to(total.dtype)
                            total.addcmul_(own, own)
                    count += 1
                    if progress is not None:
                        progress(count)
    finally:
        for module, training in modes:
            module.training = training
    if count == 0:
        raise DataError("EWC: no sample to compute the Fisher information from. Give the task at least one.")
    return {name: total.div_(count) for name, total in totals.items()}


def blended(old: Mapping[str, Tensor] | None, new: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """decay * old + (1 - decay) * new for every tensor; `new` itself after the first task, when there is no old one.

    Raises CheckpointMismatch where names or shapes do not agree.
    """
    if old is None:
        return dict(new)
    _same_tensors("the tasks before", old, "this task", new)
    _same_tensors("this task", new, "the tasks before", old)
    return {name: decay * old[name] + (1 - decay) * new[name] for name in new}


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    import torch

    return torch.promote_types(dtype, torch.float32)


def _same_tensors(what: str, here: Mapping[str, Tensor], other: str, there: Mapping[str, Tensor]) -> None:
    """Raises CheckpointMismatch unless every tensor of `there` is in `here` with its shape."""
    for name, tensor in there.items():
        if name not in here:
            raise CheckpointMismatch(f"EWC: {other} has the tensor {name!r}, {what} has not. Use one model throughout.")
        if here[name].shape != tensor.shape:
            raise CheckpointMismatch(
                f"EWC: tensor {name!r} has shape {tuple(here[name].shape)} in {what}, "
                f"{tuple(tensor.shape)} in {other}. Use one model throughout."
            )
