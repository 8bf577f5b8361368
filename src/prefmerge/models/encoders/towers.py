"""The modules that are trained: tower(**batch) -> embeddings (N, E), float32, not normalised.

    sentence: pooled over the tokens that are not padding; CLIP: the projected image; vision: cls, mean or pooler;
    a classifier: its logits

Imports torch at the top, because a module must be a class: import this inside functions only. Cost: the model's own.
Not here: preprocessing, names of tensors, files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SentenceTower(nn.Module):
    """A transformer over tokens and a pooling: "mean" over the attention mask, "cls" (first token) or "pooler"."""

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> Tensor:
        """Tokens (N, L) and their mask (N, L), 1 where there is a token."""
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, **others)
        if self.pooling == "pooler":
            if result.get("pooler_output") is None:
                raise ValueError(f"{type(self.model).__name__} has no pooled output")
            return result.pooler_output.float()
        hidden_NLE = result.last_hidden_state.float()
        if self.pooling == "cls":
            return hidden_NLE[:, 0]
        mask_NL1 = attention_mask.unsqueeze(-1).to(hidden_NLE.dtype)
        return (hidden_NLE * mask_NL1).sum(dim=1) / mask_NL1.sum(dim=1).clamp(min=1)


class ClipTower(nn.Module):
    """CLIP's image tower with its projection into the space that images and texts share."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised."""
        return self.model(pixel_values=pixel_values).image_embeds.float()


class ClipText(nn.Module):
    """CLIP's text side: phrases into the space that images and texts share."""

    def __init__(self, model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.projection = projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens (N, L) and their mask (N, L), 1 where there is a token."""
        return self.projection(self.model(input_ids=input_ids, attention_mask=attention_mask).pooler_output).float()


class VisionTower(nn.Module):
    """An image backbone and a pooling: "cls" (first token), "mean" over the patches, or the model's own "pooler".

    `prefix` counts the tokens before the patches (class token and registers), which the mean leaves out.
    """

    def __init__(self, model: Any, pooling: str, prefix: int) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.prefix = prefix

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised."""
        result = self.model(pixel_values=pixel_values)
        if self.pooling == "pooler":
            if result.get("pooler_output") is None:
                raise ValueError(f"{type(self.model).__name__} has no pooled output")
            return result.pooler_output.float().flatten(1)
        hidden = result.last_hidden_state.float()
        if hidden.dim() == 4:  # convolutional: (N, E, H, W)
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, self.prefix :].mean(dim=1)


class ClassifierTower(nn.Module):
    """A model with a classifier of its own, whose logits take the place of embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Tensor:
        """Images, or tokens with their mask, as the model takes them."""
        return self.model(**batch).logits.float()


class BeforeLastTower(nn.Module):
    """What the last layer of a classifier takes: its `whole` tower runs, and the input of its module `last` is kept."""

    def __init__(self, whole: nn.Module, last: str) -> None:
        super().__init__()
        self.whole = whole
        self.last = last

    def forward(self, **batch: Tensor) -> Tensor:
        """Images, or tokens with their mask, as the model takes them."""
        taken: list[Tensor] = []
        hook = self.whole.get_submodule(self.last).register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            self.whole(**batch)
        finally:
            hook.remove()
        embedding = taken[-1].float()
        if embedding.dim() != 2:
            raise ValueError(f"the last layer takes shape {tuple(embedding.shape)}, not one embedding for each input")
        return embedding


class OpenClipTower(nn.Module):
    """open_clip's image tower, called `visual` in its models."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised."""
        result = self.visual(pixel_values)
        return (result[0] if isinstance(result, tuple) else result).float()


def parameters_behind(output: Tensor) -> set[int]:
    """The ids of the parameters that a result was computed from, found by walking its graph backwards.

    No gradient is computed: the cost is that of the walk.
    """
    result: set[int] = set()
    seen: set[Any] = set()
    open_nodes: list[Any] = [output.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            result.add(id(node.variable))
        open_nodes.extend(following for following, _ in node.next_functions)
    return result


def settle_unused(tower: nn.Module, example: dict[str, Tensor], missing: set[str]) -> tuple[Tensor, list[str]]:
    """Freeze the parameters that an embedding does not depend on, and zero those of them that the folder lacked.

    A pooler that is not used has no gradient: frozen, it costs several processes no search for it. Weights that a
    library draws at random in place of absent ones would differ from one loading to the next, and a merge would take
    the difference for something learned. `example` is a batch of one input. Returns its embedding (1, E), and the
    names of absent parameters that it does need.
    """
    with torch.enable_grad():  # whatever the caller says: without a graph nothing would seem to be needed
        embedding = tower(**example)
    needed = parameters_behind(embedding)
    absent = []
    for name, parameter in tower.named_parameters():
        if id(parameter) not in needed:
            parameter.requires_grad_(False)
            if name in missing:
                with torch.no_grad():
                    parameter.zero_()
        elif name in missing:
            absent.append(name)
    return embedding.detach(), absent
