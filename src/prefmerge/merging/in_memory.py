"""What users have in memory, as checkpoints: state dicts, modules of torch, models with adapters of PEFT.

    {"weight": array}              a state dict
    torch.nn.Module                its state dict
    a model with adapters          as the base: the model without them. As a task: its active adapter over the base
    "cars"                         as a task: the adapter that the base has under this name

Nothing is copied but factors of adapters that lie elsewhere than in the CPU's memory. Neither torch nor PEFT is
imported before one of their objects is there. Not here: files (`opening`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefmerge.checkpoints import Checkpoint, from_state_dict
from prefmerge.checkpoints.adapter import adapter_in_memory
from prefmerge.errors import UsageError, require
from prefmerge.ground.words import joined, quoted
from prefmerge.vectors.adapter import AdapterVector

InMemory = Mapping[str, Any] | Any  # a state dict, or a module of torch, which is no type without torch

_OF_ADAPTERS = re.compile(r".*\.(lora_\w+|modules_to_save)\..*")


def base_state(base: InMemory) -> Mapping[str, Any]:
    """The state dict of a base; of a model with adapters, of the model without them. Raises UsageError."""
    if not _has_adapters(base):
        return _state(base, "base")
    model: Any = base
    _require_unmerged(model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        re.sub(r"\.(base_layer|original_module)(?=\.)", "", name): tensor
        for name, tensor in inner.state_dict().items()
        if not _OF_ADAPTERS.fullmatch(f".{name}")
    }


def task_of(given: InMemory, base: InMemory, opened: Checkpoint, name: str) -> Checkpoint:
    """A task over the `opened` base. Raises UsageError, and CheckpointError for what cannot be merged."""
    if isinstance(given, str):
        if not _has_adapters(base):
            raise UsageError(
                f"task {given!r} is text, which names an adapter of the base, and the base has none. Give a state "
                "dict, or a model."
            )
        return _adapter(base, given, opened, name)
    if not _has_adapters(given):
        return from_state_dict(_state(given, f"task {name!r}"), name=name)
    model: Any = given
    said: Any = model.active_adapters  # of PEFT a list or a text, of transformers a method
    active = _as_list(said() if callable(said) else said)
    if len(active) != 1:
        raise UsageError(
            f"task {name!r} has {len(active)} active adapters ({joined(active)}). Choose one with set_adapter, or give "
            "the model as the base, and the adapters' names as the tasks."
        )
    return _adapter(given, active[0], opened, name)


def _as_list(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def require_list(tasks: Any) -> None:
    """Raise UsageError where one task is given in place of a list."""
    if isinstance(tasks, str | Mapping) or callable(getattr(tasks, "state_dict", None)):
        raise UsageError(f"tasks is one {type(tasks).__name__}; give a list, with one for each task.")


def name_of_task(given: InMemory, number: int) -> str:
    """What a task is called by default: an adapter by its own name, others by their number, from 1."""
    return given if isinstance(given, str) else f"task-{number}"


def _has_adapters(model: Any) -> bool:
    return not isinstance(model, Mapping | str) and isinstance(getattr(model, "peft_config", None), dict)


def _state(model: InMemory, what: str) -> Mapping[str, Any]:
    if isinstance(model, Mapping):
        return model
    if callable(getattr(model, "state_dict", None)):
        return model.state_dict()
    raise UsageError(
        f"{what} is a {type(model).__name__}, which is no state dict and no module of torch. Give model.state_dict(); "
        "what lies in files is merged by prefmerge.merge."
    )


def _require_unmerged(model: Any) -> None:
    """Raise UsageError where an adapter was merged into the weights, which would count it twice."""
    if any(getattr(module, "merged_adapters", None) for module in model.modules()):
        raise UsageError(
            "the model has an adapter merged into its weights. Call unmerge_adapter() first, or give what "
            "merge_and_unload() makes as the task."
        )


def _adapter(model: Any, adapter: str, opened: Checkpoint, name: str) -> Checkpoint:
    _require_unmerged(model)
    if adapter not in model.peft_config:
        raise UsageError(f"the model has no adapter {adapter!r}; it has {quoted(list(model.peft_config), 10)}.")
    require("an adapter in memory", "lora", "peft")
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    config = {key: getattr(value, "value", value) for key, value in model.peft_config[adapter].to_dict().items()}
    return AdapterVector(adapter_in_memory(tensors, config, name), opened)
