"""What a folder is, where its weights are not simply in it: which sub-folder is meant, or what to do first.

    models--ORG--NAME/            a hub cache: the snapshot that refs/main names, or the only one
    model_index.json  unet/ ...   a pipeline of diffusers: the module that is trained (unet, transformer, ...)
    modules.json  0_Transformer/  sentence-transformers: its Transformer
    checkpoint-500/               the output of a trainer: its only checkpoint
    global_step500/  *.distcp     the state of a sharded training: an error with the command that gathers the weights

What is decided is a note; what cannot be decided is an error that says what the folder is. Names come from files of
others: they count as long as they are names of sub-folders. Cost: a few listings. Not here: the weights' own files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefmerge.checkpoints.names import TORCH_SUFFIXES, indexed, is_index
from prefmerge.checkpoints.other_formats import LIBRARIES, UNFINISHED
from prefmerge.errors import CheckpointNotFound
from prefmerge.ground import jsons
from prefmerge.ground.disk import read_text_file
from prefmerge.ground.words import joined, listed

SHOWN = 6
LONGEST = 60  # characters of a name that a message shows
DEEPEST = 4  # a cache, its snapshot, a pipeline, its module
TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|training_args|rng_state|random_states|optim_state).*|.*_optim_states\.pt|.*\.distcp",
    re.IGNORECASE,
)
_DEEPSPEED = re.compile(r"(.*mp_rank_\d+_|layer_\d+-.*)(model|optim)_states\.pt", re.IGNORECASE)
_STEP = re.compile(r"global_step\d+")
_TRAINED = re.compile(r"(unet|transformer|prior|controlnet)(_\d+)?")  # modules of diffusers that are fine-tuned
_NO_CHECKPOINT = re.compile(
    r"\..*|_.*|runs|logs?|wandb|mlruns|lightning_logs|tensorboard|onnx|openvino|original|coreml|gguf|tflite|optimizer.*",
    re.IGNORECASE,
)
ENDINGS = (".safetensors", *TORCH_SUFFIXES, *(suffix + ".tar" for suffix in TORCH_SUFFIXES))


@dataclass(frozen=True)
class Meant:
    """`folder`: the checkpoint's. `module`: the sub-folder of it that holds the weights, empty where itself does.
    `others`: its sub-folders with weights of other modules."""

    folder: Path
    module: str = ""
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def meant(folder: Path) -> Meant:
    """Where the weights lie that a user means with `folder`. Raises CheckpointNotFound saying what the folder is."""
    notes: list[str] = []
    for _ in range(DEEPEST):
        following = _snapshot(folder) or _pipeline(folder, notes)
        if following is None:
            following = Meant(folder) if holds_weights(folder) else _only_checkpoint(folder, notes)
        if isinstance(following, Meant):
            return Meant(following.folder, following.module, following.others, tuple(notes))
        if following == folder:
            break
        folder = following
    raise CheckpointNotFound(f"{folder}: no checkpoint in this folder or in its sub-folders.")


def holds_weights(folder: Path) -> bool:
    """Whether a file in `folder` is called as weights, shards or their index are; a LoRA adapter too."""
    return any(is_weights(name) for name in file_names(folder))


def is_weights(name: str) -> bool:
    """Whether a file called so may hold the weights of a model, or be the index of such files."""
    whole = indexed(name) if is_index(name) else name
    return whole.lower().endswith(ENDINGS) and not TRAINING_STATE.fullmatch(name) and not _DEEPSPEED.fullmatch(name)


def file_names(folder: Path) -> list[str]:
    """The files of a folder, sorted, without hidden ones. Raises CheckpointNotFound where it may not be read."""
    return sorted(entry.name for entry in _entries(folder) if entry.is_file() and not entry.name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise CheckpointNotFound(f"{folder}: cannot be read ({error.strerror or error}).") from error


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith("."))


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that is meant by a model's folder of a Hugging Face cache."""
    snapshots = folder / "snapshots"
    if not folder.absolute().name.startswith("models--") and not (snapshots.is_dir() and (folder / "refs").is_dir()):
        return None
    there = _folders(snapshots) if snapshots.is_dir() else []
    name = "/".join(folder.absolute().name.split("--")[1:])
    if not there:
        raise CheckpointNotFound(
            f"{folder}: the cache of a model of the Hugging Face hub, without a snapshot: nothing was downloaded, or "
            f"not to its end. Download it with: hf download {name}"
        )
    main = _text(folder / "refs" / "main")
    if main in there:
        return snapshots / main
    if len(there) == 1:
        return snapshots / there[0]
    raise CheckpointNotFound(
        f"{folder}: the cache of a model of the Hugging Face hub, with {len(there)} snapshots, none of them that of "
        f"main: {_names(there)}. Name the one you mean, for instance {snapshots / there[0]}."
    )


def _text(path: Path) -> str:
    try:
        return read_text_file(path, 4096).decode("utf-8")[:200].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _pipeline(folder: Path, notes: list[str]) -> Meant | None:
    """The module that is meant by a folder of several models."""
    modules = _modules_of_diffusers(folder)
    if modules is not None:
        return _of_diffusers(folder, modules, notes)
    rows = _modules_of_sentence_transformers(folder)
    with_weights = [path for path in rows if path and holds_weights(folder / path)]
    transformers = [path for path, kind in rows.items() if kind.endswith("Transformer") and path in ("", *with_weights)]
    if not transformers and len(with_weights) == 1 and not holds_weights(folder):
        transformers = with_weights
    if len(transformers) > 1 or (not transformers and len(with_weights) > 1 and not holds_weights(folder)):
        raise CheckpointNotFound(_which(folder, "a model of sentence-transformers", transformers or with_weights))
    if not transformers:
        return None
    module = transformers[0]
    if not module and not holds_weights(folder):
        return None
    others = tuple(path for path in with_weights if path != module)
    if module:
        notes.append(_merged("a model of sentence-transformers", module, others))
    return Meant(folder, module, others)


def _of_diffusers(folder: Path, modules: list[str], notes: list[str]) -> Meant:
    what = "a pipeline of diffusers"
    with_weights = [name for name in modules if holds_weights(folder / name)]
    trained = [name for name in with_weights if _TRAINED.fullmatch(name)]
    if not with_weights:
        raise CheckpointNotFound(
            f"{folder}: {what} (model_index.json) whose modules hold no weights that prefmerge reads. Download them "
            "too, or convert them with save_pretrained."
        )
    chosen = trained or with_weights
    if len(chosen) > 1:
        raise CheckpointNotFound(_which(folder, what, chosen))
    others = tuple(name for name in with_weights if name != chosen[0])
    notes.append(_merged(what, chosen[0], others))
    return Meant(folder, chosen[0], others)


def _merged(what: str, module: str, others: tuple[str, ...]) -> str:
    rest = f"; {_names(others)} {'stays as it is' if len(others) == 1 else 'stay as they are'}" if others else ""
    return f"{what}: the weights of its {_shown(module)} are taken{rest}"


def _which(folder: Path, what: str, modules: list[str]) -> str:
    return (
        f"{folder}: {what} with several modules that may be meant: {_names(modules)}. Merge one after the "
        f"other: give {folder / modules[0]} as the base and the same sub-folder of each task, and put what comes out "
        "in its place in a copy of the base."
    )


def _modules_of_diffusers(folder: Path) -> list[str] | None:
    """The modules that model_index.json names and that are there; None where it is absent or something else."""
    content = jsons.peek(folder / "model_index.json")
    if not isinstance(content, dict):
        return None
    named = [key for key, value in content.items() if isinstance(value, list) and len(value) == 2 and all(value)]
    return sorted(name for name in named if is_inside(name) and (folder / name).is_dir())


def _modules_of_sentence_transformers(folder: Path) -> dict[str, str]:
    """Path in the folder -> type, of the modules that modules.json names."""
    content = jsons.peek(folder / "modules.json")
    rows = [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    pairs = [(row.get("path"), row.get("type")) for row in rows]
    modules = {path: kind if isinstance(kind, str) else "" for path, kind in pairs if isinstance(path, str)}
    return {
        path.rstrip("/"): kind
        for path, kind in modules.items()
        if not path or (is_inside(path.rstrip("/")) and (folder / path).is_dir())
    }


def modules_of(folder: Path) -> set[str]:
    """The sub-folders that belong to a model of several modules, as its files name them."""
    return {*(_modules_of_diffusers(folder) or ()), *_modules_of_sentence_transformers(folder)} - {""}


def is_inside(name: str) -> bool:
    """Whether `name` leads to a sub-folder and nowhere else."""
    parts = name.split("/")
    return all(part and not part.startswith(".") and "\\" not in part and "\0" not in part for part in parts)


def _only_checkpoint(folder: Path, notes: list[str]) -> Path:
    """The only sub-folder with a checkpoint, of a folder without weights of its own."""
    names, folders = file_names(folder), _folders(folder)
    gather = _gather(folder, names, folders)
    if gather:
        raise CheckpointNotFound(gather)
    if "run.json" in names:
        raise CheckpointNotFound(
            f"{folder}: a run of `prefmerge finetune`, not a checkpoint. Give it as --run {folder}, or name one of its "
            f"checkpoints, for instance {folder / 'base'}."
        )
    caches = [name for name in folders if name.startswith("models--")]
    if caches:
        raise CheckpointNotFound(
            f"{folder}: a cache of the Hugging Face hub with {_names(caches)}. Name the model, for instance "
            f"{folder / caches[0]}."
        )
    candidates = [name for name in folders if may_hold_checkpoint(name) and _may_be_one(folder / name)]
    if len(candidates) == 1:
        notes.append(f"no weights in the folder itself: those in its sub-folder {_shown(candidates[0])} are taken")
        return folder / candidates[0]
    if candidates:
        raise CheckpointNotFound(_several(folder, candidates))
    why = _lost(folder, names) or what_it_holds(names, folders)
    raise CheckpointNotFound(f"{folder}: no checkpoint in this folder. {why}")


def may_hold_checkpoint(name: str) -> bool:
    """Whether a sub-folder called so may be a checkpoint or a module: not logs, and not the same model in another
    format."""
    return _NO_CHECKPOINT.fullmatch(name) is None


def _may_be_one(folder: Path) -> bool:
    try:
        names, folders = file_names(folder), _folders(folder)
    except CheckpointNotFound:  # it may not be read, and is nobody's checkpoint then
        return False
    return (
        any(map(is_weights, names))
        or "model_index.json" in names
        or "modules.json" in names
        or bool(_gather(folder, names, folders))
    )


def _several(folder: Path, candidates: list[str]) -> str:
    """The message about several checkpoints, in the order of their steps."""
    ordered = sorted(candidates, key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[-1]), name))
    hint = ""
    for state in (folder / "trainer_state.json", folder / ordered[-1] / "trainer_state.json"):
        best = (jsons.peek(state) or {}).get("best_model_checkpoint") if isinstance(jsons.peek(state), dict) else None
        if isinstance(best, str) and Path(best).name in candidates:
            hint = f" Its trainer calls {Path(best).name} the best."
            break
    return (
        f"{folder}: holds no weights itself, and {len(ordered)} checkpoints: {_names(ordered)}.{hint} Name the "
        f"one you mean, for instance {folder / ordered[-1]}."
    )


def _gather(folder: Path, names: Iterable[str], folders: Iterable[str]) -> str:
    """What to do first where a sharded training left its state and no weights; empty where it did not."""
    steps = [name for name in folders if _STEP.fullmatch(name) and not any(map(is_weights, _peek(folder / name)))]
    if steps or any(map(_DEEPSPEED.fullmatch, names)):
        inside = not steps and _STEP.fullmatch(folder.absolute().name)
        top, tag = (folder.absolute().parent, f" -t {folder.absolute().name}") if inside else (folder, "")
        script = top / "zero_to_fp32.py"
        run = f"python {script}" if script.is_file() else "python -m deepspeed.utils.zero_to_fp32"
        return (
            f"{folder}: the state of a training with DeepSpeed, not a model: its weights are spread over the shards of "
            f"the optimizer. Gather them first with: {run} {top} OUT{tag}"
        )
    places = [folder] if any(name.endswith(".distcp") for name in names) else []
    places += [folder / name for name in folders if any(one.endswith(".distcp") for one in _peek(folder / name))]
    places = [place for place in places if not place.name.startswith("optimizer")]
    if places:
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {places[0]} OUT.pt"
        if places[0].name.startswith("pytorch_model_fsdp"):
            command = f"accelerate merge-weights {places[0]} OUT"
        return (
            f"{folder}: the state of a distributed training (.distcp), not a model: its weights are spread over "
            f"shards. Gather them first with: {command}"
        )
    return ""


def _lost(folder: Path, names: Iterable[str]) -> str:
    """What to say where the weights were there, or were to be; empty where nothing tells."""
    broken = sorted(entry.name for entry in _entries(folder) if entry.is_symlink() and not entry.exists())
    if any(map(is_weights, broken)):
        return (
            f"It holds links that lead to nothing: {_names(broken)}. Bring back what they lead to, or download again."
        )
    hidden = folder / ".cache" / "huggingface" / "download"
    begun = [*names, *(_all_names(hidden) if hidden.is_dir() else ())]
    if any(name.lower().endswith(UNFINISHED) for name in begun):
        return "A download into it did not end. Download it again."
    return ""


def _all_names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.rglob("*")]
    except OSError:
        return []


def _peek(folder: Path) -> list[str]:
    """The files of a folder; none where it may not be read."""
    try:
        return file_names(folder)
    except CheckpointNotFound:
        return []


def what_it_holds(names: list[str], folders: list[str]) -> str:
    """What to say of a folder without weights that can be read."""
    lower = [name.lower() for name in names]
    formats = [what for suffix, what in LIBRARIES.items() if any(name.endswith(suffix) for name in lower)]
    held = [*names, *(f"{name}/" for name in folders)]
    holds = f"It holds {_names(held)}" if held else "It is empty"
    if formats:
        return (
            f"{holds}: weights of {joined(formats)}, which prefmerge does not read. Convert them with the "
            "library's own save_pretrained first."
        )
    return f"{holds}; expected model.safetensors or another weights file."


def _names(names: Iterable[str]) -> str:
    return listed(names, SHOWN, form=_shown)


def _shown(name: str) -> str:
    plain = name if name.isprintable() else ascii(name)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}…"
