"""LoRA adapters in place of whole weights: put into a tower, trained, written as PEFT writes them, taken out again.

    W + alpha / rank * B A      of each linear layer that is asked for; A (rank, in), B (out, rank), and W stays

In sequence theta_t starts from the A and B of theta_{t-1}, so each task's adapter is over the base: all that merges
checkpoints takes them as tasks. Cost: A and B, and what PEFT adds to a step; a checkpoint is as small as its adapter.
Names are those of the base's files, which transformers may have under others in memory. Not here: the training
(`steps`), reading adapters for a merge (`checkpoints.adapter`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.checkpoints.adapter import open_adapter
from prefmerge.checkpoints.dtypes import to_float32
from prefmerge.errors import ConfigError, require
from prefmerge.ground import jsons
from prefmerge.ground.words import did_you_mean, listed

if TYPE_CHECKING:
    from torch import nn

    from prefmerge.config import AdapterConfig
    from prefmerge.models.encoders.protocol import Encoder

_PREFIX = "base_model.model."  # PEFT's, in front of every name in an adapter's file
_SHOWN = 20  # endings of names in a message


class Adapters:
    """One adapter in the tower of an encoder, on every layer in `layers`: its name in the tower -> in files."""

    def __init__(self, encoder: Encoder, config: AdapterConfig, layers: dict[str, str]) -> None:
        self.encoder, self.config, self.layers = encoder, config, layers

    def factors(self) -> dict[str, nn.Parameter]:
        """A and B by their names in a file."""
        named: dict[str, nn.Parameter] = {}
        for own, stored in self.layers.items():
            layer: Any = self.encoder.tower.get_submodule(own)
            for side in ("lora_A", "lora_B"):
                named[f"{_PREFIX}{stored}.{side}.weight"] = getattr(layer, side)["default"].weight
        return named

    def start_from(self, folder: Path) -> None:
        """Take A and B of an adapter that `save` wrote."""
        import torch

        stored = open_adapter(folder).stored
        try:
            with torch.no_grad():
                for name, parameter in self.factors().items():
                    info = stored.tensors[name]
                    values = to_float32(stored.raw(name), info.dtype).reshape(info.shape)
                    parameter.copy_(torch.from_numpy(values.copy()))
        finally:
            stored.close()

    def save(self, folder: Path) -> None:
        """Write the adapter into an empty folder, as PEFT does."""
        from safetensors.torch import save_file

        tensors = {name: one.detach().cpu().contiguous() for name, one in self.factors().items()}
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        described = {
            "peft_type": "LORA",
            "base_model_name_or_path": self.encoder.name,
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": self.config.dropout,
            "target_modules": sorted(self.layers.values()),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "task_type": "FEATURE_EXTRACTION",
        }
        (folder / "adapter_config.json").write_bytes(jsons.encoded(described, indent=2))


@contextlib.contextmanager
def adapter_in(encoder: Encoder, config: AdapterConfig, seed: int) -> Iterator[Adapters]:
    """Inside, the encoder's tower has an adapter that changes nothing yet (B is 0, A is drawn from `seed`), and trains
    it alone. Afterwards the tower is as it was.

    Raises MissingExtra without PEFT; ConfigError where no linear layer is of that name, or the encoder has none.
    """
    require("training adapters", "lora", "peft")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    layers = _layers(encoder, config)
    trained = {name: parameter.requires_grad for name, parameter in encoder.tower.named_parameters()}
    asked = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  (PEFT takes any number)
        lora_dropout=config.dropout,
        target_modules=list(layers),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder.tower = inject_adapter_in_model(asked, encoder.tower)
    try:
        yield Adapters(encoder, config, layers)
    finally:
        for name in layers:
            parent, _, last = name.rpartition(".")
            layer: Any = encoder.tower.get_submodule(name)
            setattr(encoder.tower.get_submodule(parent), last, layer.get_base_layer())
        del encoder.tower.peft_config  # PEFT's own note that the tower has an adapter
        for name, parameter in encoder.tower.named_parameters():
            parameter.requires_grad_(trained[name])


def _layers(encoder: Encoder, config: AdapterConfig) -> dict[str, str]:
    """The linear layers to train: name in the tower -> in files."""
    from torch import nn

    tower = encoder.tower
    at = {tensor.data_ptr(): name for name, tensor in encoder.state().items()}
    every = {
        name: at[module.weight.data_ptr()].removesuffix(".weight")
        for name, module in tower.named_modules()
        if type(module) is nn.Linear and module.weight.requires_grad and module.weight.data_ptr() in at
    }
    if not every:
        raise ConfigError(
            f"training.adapter: {encoder.name} has no linear layer that can be trained by itself. Leave adapter out, "
            "so that all weights are trained."
        )
    if config.targets is None:
        return every
    for target in config.targets:
        if not any(_ends(own, stored, target) for own, stored in every.items()):
            endings = sorted({stored.rpartition(".")[2] for stored in every.values()})
            raise ConfigError(
                f"training.adapter.targets: no linear layer is called {target!r}.{did_you_mean(target, endings)} "
                f"There are: {listed(endings, _SHOWN)}."
            )
    return {
        own: stored for own, stored in every.items() if any(_ends(own, stored, target) for target in config.targets)
    }


def _ends(own: str, stored: str, target: str) -> bool:
    return any(f".{name}".endswith(f".{target}") for name in (own, stored))
