"""A LoRA adapter of PEFT: what it changes in a model, as small factors.

    theta = theta_0 + scaling * B A            of each module that was trained
    scaling = alpha / r,  alpha / sqrt(r) with use_rslora;  alpha and r may differ by module (alpha_pattern)
    theta = what is stored                     of whole tensors (modules_to_save, bias)

A folder holds adapter_config.json and adapter_model.safetensors or .bin; names in it begin with `base_model.model.`,
and tell the module, `lora_A` or `lora_B`. Read here: Linear, Embedding, Conv1D (fan_in_fan_out) and convolutions
without groups, biases. Refused, by name: adapters of other kinds, and those whose change is not a product of two
factors added to the base (DoRA and the like), or that were trained over another base than the one that they name
(PiSSA, OLoRA, LoftQ, CorDA). Cost: a header and a small JSON. Not here: the products (`vectors.adapter`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from prefmerge.checkpoints.dtypes import require_mergeable, to_float32
from prefmerge.checkpoints.folder import WELL_KNOWN, open_weights
from prefmerge.checkpoints.layouts import meant
from prefmerge.checkpoints.memory import from_state_dict
from prefmerge.checkpoints.paths import expanded, name_of, split_adapter
from prefmerge.checkpoints.protocol import Checkpoint, TensorInfo
from prefmerge.errors import CheckpointCorrupt, CheckpointMismatch, CheckpointNotFound
from prefmerge.ground import jsons
from prefmerge.ground.brief import brief
from prefmerge.ground.words import counted, quoted
from prefmerge.shown import value

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in order of preference
SHOWN = 3  # names that a message lists
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.[^.]+)?(\.weight)?")
_BIAS = re.compile(r"(?P<module>.+)\.lora_B(\.[^.]+)?\.bias")
_MAGNITUDE = re.compile(r".+\.lora_magnitude_vector(\..+)?")
# What a configuration may ask for that makes more of an adapter than factors over the base: key -> what that is called.
_NOT_FACTORS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "trainable_token_indices": "single trained tokens (trainable_token_indices)",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # values of init_lora_weights


@dataclass(frozen=True)
class LowRank:
    """The two factors of one module's weight, named as they are stored, and what their product is multiplied by.

    `transposed`: the weight is (B A) transposed; of a weight that is not square its shape says so.
    """

    a: str
    b: str
    scaling: float
    transposed: bool


@final
@dataclass(frozen=True, eq=False)
class Adapter:
    """An opened adapter. `updates` and `biases` by module, `whole` by tensor, as the model calls them. A bias is what
    is stored and a factor."""

    __repr__ = brief

    name: str
    where: str  # for messages
    path: Path | None  # None: it is in memory
    stored: Checkpoint
    base: str | None  # what the configuration calls the model that it was trained over
    updates: Mapping[str, LowRank]
    biases: Mapping[str, tuple[str, float]]
    whole: Mapping[str, str]
    embeddings: frozenset[str]  # the modules that are embeddings

    @property
    def trained_over(self) -> str:
        """For messages: the model that the configuration names."""
        return f", {value(self.base)}" if self.base else ""

    def fits(self, of: LowRank, shape: tuple[int, ...]) -> bool:
        """Whether the product of two factors is a change of a weight of this shape, turned if it must be."""
        product = self._product(of)
        return shape == product or (len(product) == 2 and shape == product[::-1])

    def require_fits(self, of: LowRank, shape: tuple[int, ...]) -> None:
        """Raise CheckpointMismatch where it is not."""
        if not self.fits(of, shape):
            product = self._product(of)
            raise CheckpointMismatch(
                f"{self.where}: the factors of {of.b!r} make a weight of shape "
                f"{product[::-1] if of.transposed else product}, and the base's has {shape}. Give the base that the "
                f"adapter was trained over{self.trained_over}."
            )

    def is_square(self, of: LowRank) -> bool:
        """Whether the shape of a weight does not say which way round the product is."""
        product = self._product(of)
        return len(product) == 2 and product[0] == product[1]

    def factors(self, of: LowRank, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Left and right factor of a weight of this shape, float32: its first axis by rank, rank by all others."""
        a, b = (to_float32(self.stored.raw(name), self.stored.tensors[name].dtype) for name in (of.a, of.b))
        rank, product = self.stored.tensors[of.a].shape[0], self._product(of)
        left, right = b.reshape(product[0], rank), a.reshape(rank, -1)
        if shape != product or (of.transposed and shape == product[::-1]):
            left, right = right.T, left.T
        return np.ascontiguousarray(left), np.ascontiguousarray(right)

    def _product(self, of: LowRank) -> tuple[int, ...]:
        return (self.stored.tensors[of.b].shape[0], *self.stored.tensors[of.a].shape[1:])

    def close(self) -> None:
        """Let go of the file."""
        self.stored.close()


def is_adapter(path: str | Path) -> bool:
    """Whether the path is that of an adapter, or `model+adapter`."""
    model, own = split_adapter(path)
    return model is not None or find_adapter(own) is not None


def find_adapter(path: str | Path) -> Path | None:
    """The folder of the adapter that `path` means: a folder or a file in it; None where it is something else."""
    path = expanded(path)
    try:
        if path.is_file():
            return path.parent if path.stem == "adapter_model" and (path.parent / CONFIG).is_file() else None
        folder = meant(path).folder if path.is_dir() else path
        whole = any((folder / name).is_file() for name in WELL_KNOWN)
        return folder if _weights(folder) and (folder / CONFIG).is_file() and not whole else None
    except (CheckpointNotFound, OSError):
        return None  # who opens it says what it is


def _weights(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def open_adapter(path: str | Path, *, name: str | None = None) -> Adapter:
    """Open the adapter at `path`. Raises CheckpointNotFound, CheckpointCorrupt and, for a kind that cannot be merged,
    CheckpointMismatch.
    """
    folder = find_adapter(path)
    file = None if folder is None else _weights(folder)
    if folder is None or file is None:
        raise CheckpointNotFound(f"{path}: no LoRA adapter: it has no {CONFIG} beside adapter_model.safetensors.")
    config = _read_config(folder)
    _refuse_other_kinds(str(folder), config)
    stored = open_weights(file, name=name or name_of(folder))
    try:
        return _understood(name or name_of(folder), folder, stored, config)
    except BaseException:
        stored.close()
        raise


def adapter_in_memory(tensors: Mapping[str, Any], config: Mapping[str, Any], name: str) -> Adapter:
    """An adapter out of what its files would hold. Raises CheckpointCorrupt and CheckpointMismatch."""
    _refuse_other_kinds(f"adapter {name!r}", config)
    return _understood(name, None, from_state_dict(tensors, name=name), config)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = jsons.read(folder / CONFIG, nan=True)
    except (OSError, jsons.NotJson) as error:
        raise CheckpointCorrupt(f"{folder / CONFIG}: not a readable configuration: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointCorrupt(f"{folder / CONFIG}: expected an object of settings.")
    return config


def _refuse_other_kinds(where: str, config: Mapping[str, Any]) -> None:
    merged = "Merge it into its base with PEFT (merge_and_unload), save that, and give the result as the task."
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointMismatch(f"{where}: an adapter of type {value(kind)}; prefmerge reads LoRA only. {merged}")
    for key, what in _NOT_FACTORS.items():
        if config.get(key):
            raise CheckpointMismatch(f"{where}: an adapter with {what}, which is more than factors. {merged}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise CheckpointMismatch(
            f"{where}: an adapter that began as {start}, which changes the base's weights before training. {merged}"
        )


def _understood(name: str, folder: Path | None, stored: Checkpoint, config: Mapping[str, Any]) -> Adapter:
    where = f"adapter {name!r}" if folder is None else str(folder)
    factors: dict[str, dict[str, str]] = {}
    embeddings: set[str] = set()
    biases: dict[str, str] = {}
    whole: dict[str, str] = {}
    for key, info in stored.tensors.items():
        require_mergeable(info.dtype, file=stored.file_of(key), tensor=key)
        plain = key.removeprefix("base_model.").removeprefix("model.") if key.startswith("base_model.model.") else key
        if _MAGNITUDE.fullmatch(plain):
            raise CheckpointMismatch(f"{where}: an adapter with DoRA ({key!r}), which is more than factors.")
        if bias := _BIAS.fullmatch(plain):
            biases[bias["module"]] = key
        elif factor := _FACTOR.fullmatch(plain):
            factors.setdefault(factor["module"], {})[factor["side"]] = key
            if factor["embedding"]:
                embeddings.add(factor["module"])
        elif ".original_module." not in plain:
            whole[re.sub(r"\.(modules_to_save(\.[^.]+(?=\.[^.]+$))?|base_layer)\.", ".", plain)] = key
    updates: dict[str, LowRank] = {}
    for module, sides in factors.items():
        if len(sides) < 2:
            raise CheckpointCorrupt(
                f"{where}: {module!r} has {next(iter(sides.values()))!r} and not its other factor. Save it again."
            )
        transposed = module in embeddings or config.get("fan_in_fan_out") is True
        scaling = _scaling(where, config, module, _rank(where, stored, sides))
        updates[module] = LowRank(sides["A"], sides["B"], scaling, transposed)
    alone = [module for module in biases if module not in updates]
    if alone or not (updates or whole):
        what = f"biases of {quoted(alone, SHOWN)} without factors" if alone else "no factors"
        raise CheckpointCorrupt(f"{where}: an adapter with {what}. Save it again with save_pretrained.")
    base = config.get("base_model_name_or_path")
    return Adapter(
        name,
        where,
        folder,
        stored,
        base if isinstance(base, str) and base else None,
        updates,
        {module: (key, updates[module].scaling) for module, key in biases.items()},
        whole,
        frozenset(embeddings),
    )


def _rank(where: str, stored: Checkpoint, sides: Mapping[str, str]) -> int:
    """The rank of two factors. Raises CheckpointMismatch where they have none in common."""
    a, b = (stored.tensors[sides[side]].shape for side in "AB")
    if len(a) < 2 or len(b) < 2 or b[1] != a[0] or math.prod(b[2:]) != 1 or not a[0]:
        raise CheckpointMismatch(
            f"{where}: {sides['A']!r} of shape {a} and {sides['B']!r} of shape {b} make no product: a "
            "convolution with groups, or a damaged file. Merge it with PEFT, and give the result as the task."
        )
    return a[0]


def _scaling(where: str, config: Mapping[str, Any], module: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha = config.get("lora_alpha", 8)
    try:
        for pattern, own in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = own
                break
    except (re.error, AttributeError) as error:
        raise CheckpointCorrupt(f"{where}: alpha_pattern {value(patterns)} is no pattern: {error}.") from error
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise CheckpointCorrupt(f"{where}: alpha is {value(alpha)}, not a number.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def in_names_of(adapter: Adapter, base: Mapping[str, TensorInfo]) -> dict[str, str]:
    """What the base calls the tensors of an adapter: its name for each -> the base's. Models are wrapped
    differently, so that a name may have more or fewer parts in front, the same ones for all; never the number of a
    layer. Where several parts of the base have such names, shapes decide. Raises CheckpointMismatch.
    """
    ours = [*(f"{module}.weight" for module in adapter.updates), *(f"{module}.bias" for module in adapter.biases)]
    ours += [name for name in adapter.whole if name not in ours]
    options: list[dict[str, str]] = []
    for off, on in _prefixes(ours[0], list(base)):
        named = {name: on + name.removeprefix(off) for name in ours}
        if all(name.startswith(off) and named[name] in base for name in ours) and named not in options:
            options.append(named)
    if not options:
        missing = [name for name in ours if name not in base]
        raise CheckpointMismatch(
            f"{adapter.where}: an adapter for {counted(len(missing), 'tensor')} that the base does not have: "
            f"{quoted(missing, SHOWN)}. Give the base that it was trained over{adapter.trained_over}. Where the base "
            "ties these to others and stores them once, merge the adapter with PEFT and give the result."
        )
    if len(options) > 1 and options[0][ours[0]] != ours[0]:
        options = [named for named in options if _fits(adapter, named, base)] or options[:1]
        if len(options) > 1:
            found = quoted([named[ours[0]] for named in options], SHOWN)
            raise CheckpointMismatch(
                f"{adapter.where}: {ours[0]!r} may be {found} of the base. Merge the adapter into the part that it was "
                "trained over with PEFT, and give the whole model as the task."
            )
    return options[0]


def _fits(adapter: Adapter, named: Mapping[str, str], base: Mapping[str, TensorInfo]) -> bool:
    return all(adapter.fits(update, base[named[f"{m}.weight"]].shape) for m, update in adapter.updates.items()) and all(
        adapter.stored.tensors[stored].shape == base[named[own]].shape for own, stored in adapter.whole.items()
    )


def _prefixes(name: str, base: Sequence[str]) -> list[tuple[str, str]]:
    """What may be taken off and put in front of names so that `name` is one of the base's, nothing first."""
    parts = name.split(".")
    options = [("", "")]
    for count in range(len(parts) - 1):
        if any(part.isdecimal() for part in parts[:count]):
            break
        rest = ".".join(parts[count:])
        off = name.removesuffix(rest)
        on = (one.removesuffix(rest) for one in base if one == rest or one.endswith(f".{rest}"))
        options += [(off, put) for put in on if not any(part.isdecimal() for part in put.split("."))]
    return options
