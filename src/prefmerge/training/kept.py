"""What a run keeps for later: held-out samples of each task, and the base's embeddings of training samples.

    RUN/held-out/samples.json          the tasks, their classes; ids, labels and texts of what no training saw
    RUN/held-out/TASK.safetensors      the task's images, as the encoder keeps them (`Encoder.keep`)
    RUN/base-embeddings.safetensors    embeddings (N, E) float32, labels (N,), tasks (N,): EACH samples a class at most

With them a run needs neither its data nor the model that it started from. `run.json` has a hash of each file, which
shows damage. No torch is needed to read. Cost: writing: one task's samples in memory, one forward pass of the
base for each embedded sample; reading: the files once, images when they are asked for. Not here: which samples are
held out (`scenarios`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefmerge.data.examples import Examples, concatenated
from prefmerge.data.rows import ContentHash, Encoded, Texts
from prefmerge.errors import RunError
from prefmerge.ground import atomic, jsons
from prefmerge.ground.draws import per_class
from prefmerge.ground.progress import Counted
from prefmerge.ground.store import digest_of_file
from prefmerge.models.encoders.protocol import as_input
from prefmerge.runs import Run

if TYPE_CHECKING:
    from prefmerge.data.scenarios import Scenario
    from prefmerge.models.encoders.protocol import Encoder

FORMAT = "prefmerge-held-out/1"
HELD_OUT, EMBEDDINGS = "held-out", "base-embeddings.safetensors"
FILES = (HELD_OUT, EMBEDDINGS)  # in the run's folder
EACH = 100  # training samples of a class whose base embeddings are kept
_LIST = "samples.json"
_AT_ONCE = 64  # inputs


@dataclass(frozen=True, eq=False)
class Kept:
    """All of T tasks, in the order of training (in joint training too, which makes one of them). Labels count into
    `classes`, the head's. `held_out[t].read` gives what `Encoder.prepare` takes. `of_task` (T): the classes of each
    task; `among` (T): those that a model chooses from for its samples. `embeddings` (N, E) float32, of training
    samples; `labels` and `tasks` (N,) int64 say whose.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    of_task: tuple[tuple[int, ...], ...]
    among: tuple[tuple[int, ...], ...]
    held_out: tuple[Examples, ...]
    embeddings: np.ndarray
    labels: np.ndarray
    tasks: np.ndarray


def write_kept(
    out: Path, scenario: Scenario, encoder: Encoder, device: Any = None, progress: Counted | None = None
) -> dict[str, Any] | None:
    """Write what `read_kept` reads, while the encoder is the base. Returns what the manifest says of it: how many
    samples and bytes, a hash of each file. None, and nothing is written, where no task holds a sample out.
    """
    from safetensors.numpy import save

    if not any(len(task.held_out) for task in scenario.tasks):
        return None
    everything = range(len(scenario.tasks))
    with atomic.whole_folder(out / HELD_OUT) as folder:
        _write_list(folder, scenario, [_write_task(folder, scenario, encoder, index) for index in everything])
    arrays = _embedded(scenario, everything, encoder, device, progress)
    atomic.write_whole(out / EMBEDDINGS, save(arrays))
    return _described(out, scenario, len(arrays["labels"]))


def write_kept_again(
    run: Run, scenario: Scenario, encoder: Encoder, tasks: Collection[int], device: Any = None
) -> dict[str, Any]:
    """Write what is kept of these tasks in place of what was there; of the others nothing is read but what the run
    kept. Returns what the manifest says now. Raises RunError where what the run kept is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    out, file = run.folder, run.folder / EMBEDDINGS
    try:
        old = load(file.read_bytes())
        file = out / HELD_OUT / _LIST
        listed = jsons.read(file)["tasks"]
        with atomic.whole_folder(out / HELD_OUT) as folder:
            for index in range(len(listed)):
                file = out / HELD_OUT / _file(index)
                if index in tasks:
                    listed[index] = _write_task(folder, scenario, encoder, index)
                elif file.is_file():
                    shutil.copyfile(file, folder / _file(index))
            _write_list(folder, scenario, listed)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _damaged(file, error) from error
    new = _embedded(scenario, sorted(tasks), encoder, device)
    others = ~np.isin(old["tasks"], sorted(tasks))
    arrays = {name: np.concatenate([old[name][others], new[name]]) for name in new}
    order = np.argsort(arrays["tasks"], kind="stable")
    atomic.write_whole(out / EMBEDDINGS, save({name: values[order] for name, values in arrays.items()}))
    return _described(out, scenario, len(order))


def _write_list(folder: Path, scenario: Scenario, listed: list[dict[str, Any]]) -> None:
    whole = {"format": FORMAT, "classes": [one.name for one in scenario.classes], "tasks": listed}
    (folder / _LIST).write_bytes(jsons.encoded(whole, indent=None))


def _described(out: Path, scenario: Scenario, embedded: int) -> dict[str, Any]:
    """What the manifest says of what is kept."""
    files = [*sorted((out / HELD_OUT).iterdir()), out / EMBEDDINGS]
    return {
        "held_out": sum(len(task.held_out) for task in scenario.tasks),
        "held_out_bytes": sum(file.stat().st_size for file in files[:-1]),
        "embeddings": embedded,
        "embeddings_bytes": files[-1].stat().st_size,
        "files": {file.relative_to(out).as_posix(): _digest(file) for file in files},
    }


def _write_task(folder: Path, scenario: Scenario, encoder: Encoder, index: int) -> dict[str, Any]:
    """Write the held-out images of a task; what the list says of it."""
    from safetensors.numpy import save

    task = scenario.tasks[index]
    examples, forms, kept = task.held_out, list[str](), list[Any]()
    for start in range(0, len(examples), _AT_ONCE):
        form, some = encoder.keep(examples.read(range(start, min(start + _AT_ONCE, len(examples)))))
        forms += [form] * len(some)
        kept += some
    entry: dict[str, Any] = {
        "name": task.name,
        "classes": list(task.classes),
        "among": list(task.among),
        "ids": list(examples.ids),
        "labels": examples.labels.tolist(),
        "forms": forms,
    }
    if all(form == "text" for form in forms):
        return {**entry, "texts": kept}
    arrays = [np.ascontiguousarray(one) for one in kept]
    shapes = np.array([one.shape for one in arrays], np.int64)
    values = np.concatenate([one.reshape(-1) for one in arrays])
    (folder / _file(index)).write_bytes(save({"shapes": shapes, "values": values}))
    return entry


def _file(index: int) -> str:
    return f"task-{index + 1:02d}.safetensors"


def _embedded(
    scenario: Scenario, tasks: Sequence[int], encoder: Encoder, device: Any, progress: Counted | None = None
) -> dict[str, np.ndarray]:
    """Embeddings of training samples of these tasks, with their labels and tasks."""
    from prefmerge.models.features import embed

    of_task = [scenario.tasks[index].train for index in tasks]
    parts = [train.take(per_class(train.ids, train.labels, EACH, seed=0)) for train in of_task]
    some = concatenated(parts)
    return {
        "embeddings": embed(encoder, some, batch=_AT_ONCE, device=device, progress=progress),
        "labels": some.labels.astype(np.int64),
        "tasks": np.repeat(np.asarray(tasks, np.int64), [len(part) for part in parts]),
    }


def read_kept(run: Run) -> Kept | None:
    """What a run kept; None where it kept nothing. Raises RunError where a file is absent or damaged."""
    said = run.about.get("kept")
    if not said:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = run.folder
    try:
        for name, digest in dict(said["files"]).items():
            file = run.folder / name
            if _digest(file) != digest:
                raise ValueError("its contents are not those that the run wrote")
        file = run.folder / HELD_OUT / _LIST
        listed = jsons.read(file)
        if listed["format"] != FORMAT:
            raise ValueError(f"its format is {listed['format']!r}; this prefmerge reads {FORMAT!r}")
        held_out = tuple(_examples(run.folder / HELD_OUT, at, entry) for at, entry in enumerate(listed["tasks"]))
        rows = [(tuple(map(int, one["classes"])), tuple(map(int, one["among"]))) for one in listed["tasks"]]
        names, classes = tuple(str(one["name"]) for one in listed["tasks"]), tuple(map(str, listed["classes"]))
        file = run.folder / EMBEDDINGS
        arrays = load(file.read_bytes())
        embeddings, labels, tasks = (arrays[name] for name in ("embeddings", "labels", "tasks"))
        if embeddings.ndim != 2 or not len(embeddings) == len(labels) == len(tasks):
            raise ValueError(f"it has embeddings of shape {embeddings.shape} for {len(labels)} labels")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _damaged(file, error) from error
    of_task, among = zip(*rows, strict=True)
    return Kept(names, classes, of_task, among, held_out, embeddings, labels, tasks)


def _damaged(file: Path, error: Exception) -> RunError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return RunError(
        f"{file}: what the run kept cannot be read: {reason}. Copy the whole run folder again from where it was made."
    )


def _digest(file: Path) -> str:
    return f"xxh3-128:{digest_of_file(file)}"


def _examples(folder: Path, index: int, entry: dict[str, Any]) -> Examples:
    ids, labels = tuple(map(str, entry["ids"])), np.asarray(entry["labels"], np.int64)
    if "texts" in entry:
        texts = Texts(tuple(map(str, entry["texts"])))
        if len(texts.texts) != len(ids):
            raise ValueError(f"task {entry['name']!r} has {len(texts.texts)} texts for {len(ids)} ids")
        return Examples(ids, labels, texts, ContentHash(Encoded(texts)))
    images = _KeptImages(folder / _file(index), tuple(map(str, entry["forms"])))
    return Examples(ids, labels, images, ContentHash(_Raw(images)))


@dataclass(frozen=True)
class _KeptImages:
    """Reads kept images: `forms` (n) says in which form each is."""

    file: Path
    forms: tuple[str, ...]

    def arrays(self, at: Sequence[int]) -> Iterator[np.ndarray]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="numpy") as opened:
                shapes, values = opened.get_tensor("shapes"), opened.get_slice("values")
                ends = np.cumsum(np.prod(shapes, axis=1))
                for i in at:
                    stop, shape = int(ends[i]), shapes[i]
                    yield values[stop - int(np.prod(shape)) : stop].reshape(shape)
        except (OSError, ValueError, IndexError, SafetensorError) as error:
            raise _damaged(self.file, error) from error

    def __call__(self, at: Sequence[int]) -> list[Any]:
        return [as_input(one, self.forms[i]) for one, i in zip(self.arrays(at), at, strict=True)]


@dataclass(frozen=True)
class _Raw:
    """The bytes of kept images, for their fingerprint."""

    images: _KeptImages

    def __call__(self, at: Sequence[int]) -> list[bytes]:
        return [one.tobytes() for one in self.images.arrays(at)]
