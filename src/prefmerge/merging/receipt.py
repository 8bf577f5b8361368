"""What a merge did, as one JSON object beside the weights.

    receipt = Receipt.load("merged/receipt.json")
    receipt.recipe["method"], receipt.totals.owned, receipt.tensors["visual.proj"].role

It holds the recipe with every default spelled out, the inputs with their fingerprints, budgets asked and elements owned
per task and tensor, and apart from them, under `run`, what varies from run to run (time, threads, versions).
Nothing of it is in the weights file, so equal recipes give equal bytes. Counts are elements, and a tuple of them has
one entry per task. A field with a default is left out of the JSON where it is None; the others are always written.
What is written (`published`) may be shown to anybody: the inputs' paths are relative to the receipt, and no host is in
it. Reading gives the whole paths again.

Cost: that of the JSON; nothing heavy is imported before a receipt is read. Not here: how it is made (`recording`), and
whether it is true (`verify`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prefmerge.errors import CheckpointCorrupt, MethodError, PreferenceError
from prefmerge.ground import atomic, jsons
from prefmerge.ground.brief import brief
from prefmerge.merging import grouped, places
from prefmerge.merging.parameters import AS_TASK_VECTOR, METHOD, parameter
from prefmerge.methods.parameters import PREFERENCE
from prefmerge.methods.shares_by_layer import from_json
from prefmerge.preference import exact

FORMAT = "prefmerge-receipt/1"
AGAIN = "Merge again to have one."

PerTask = tuple[int, ...]  # elements, one number for each task


@dataclass(frozen=True, kw_only=True)
class ReceiptFile:
    """A weights file."""

    name: str  # its path in the folder, or its name
    bytes: int  # its size


@dataclass(frozen=True, kw_only=True)
class ReceiptInput:
    """A checkpoint that was read."""

    name: str  # the task's name; `base` of the base
    path: str | None  # None for a state dict in memory
    files: tuple[ReceiptFile, ...]  # its weights files
    fingerprint: str  # of its elements, or of its header where `covers` says so
    covers: Literal["content", "header"]  # what the fingerprint is of: `header` where the elements need not be read
    task_vector: bool  # whether it was a task vector, not a model
    sha256: Mapping[str, str] | None  # by the file's name
    elsewhere: bool | None = None  # the path is its last name alone: the rest would say where the user's files are

    @property
    def place(self) -> str | None:
        """Where it was; None for a state dict in memory, and where the receipt does not say."""
        return None if self.elsewhere else self.path


@dataclass(frozen=True, kw_only=True)
class ReceiptInputs:
    """Everything that was read."""

    base: ReceiptInput  # the model that the tasks started from
    tasks: tuple[ReceiptInput, ...]  # T of them, in the order of training


@dataclass(frozen=True, kw_only=True)
class ReceiptOutput:
    """What was written."""

    path: str | None  # None for a state dict in memory
    kind: Literal["file", "folder", "memory"]  # what it is: a folder, a file, or a state dict in memory
    files: tuple[ReceiptFile, ...]  # the weights files
    fingerprint: str  # of all its elements, whatever the shards
    beside: tuple[str, ...] | None = None  # the other files of a folder, by their paths in it; not the receipt


@dataclass(frozen=True, kw_only=True)
class ReceiptElements:
    """How many elements the model has, and what became of them; the others sum to `total`."""

    total: int  # of all tensors
    merged: int  # of tensors that a task changed
    unchanged: int  # as the base has them, for no task changed them
    excluded: int  # as the base has them, for that was asked for
    copied: int  # of tensors that hold no floating point
    tied: int  # of tensors that are another one, stored twice


@dataclass(frozen=True, kw_only=True)
class ReceiptTotals:
    """The sums over all merged tensors; None where the method has no such number."""

    asked: PerTask | None  # budgets: elements for each task, shape (T,)
    owned: PerTask | None  # elements that each task owns, shape (T,)
    passes: tuple[PerTask, ...] | None  # of these, what each pass of the selection gave, a row of (T,) each
    random: PerTask | None  # of these, what chance gave, shape (T,)
    gap: float | None  # of `optimal`: how far the retained importance may be from the best
    prices: tuple[float | None, ...] | None = None  # of `optimal` over the whole model


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptTensor:
    """One tensor of the output and what became of it. Counts as in the totals; None where there are none."""

    shape: tuple[int, ...]  # of the tensor
    dtype: str  # its number format in the output
    role: Literal["merged", "unchanged", "excluded", "copied", "tied"]  # what became of it
    tied_to: str | None = None  # the tensor that it is stored as
    asked: PerTask | None = None  # budgets, (T,)
    passes: tuple[PerTask, ...] | None = None  # a row of (T,) for each pass
    random: PerTask | None = None  # (T,)
    gap: float | None = None  # as in the totals
    prices: tuple[float | None, ...] | None = None  # of `optimal`, (T,)
    owned: PerTask | None = None  # (T,)
    xxh3: str | None = None  # digest of its elements


@dataclass(frozen=True, kw_only=True)
class ReceiptRun:
    """What varies from run to run. A merge in memory has no start, memory limit or scratch file."""

    started: str | None = None  # date and time with the time zone, ISO 8601
    seconds: float  # wall clock
    host: str | None = None  # of receipts of earlier versions
    threads: int  # how many worked
    max_memory: str | None = None  # the bound that was given, such as 256MiB
    scratch_bytes: int | None = None  # what went to the disk while merging
    kept: int | None = None  # tensors that an interrupted merge had finished, where this one resumed it
    versions: Mapping[str, str]  # package -> version, Python's among them


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How an output was made, of T tasks. The order is that of the JSON."""

    __repr__ = brief

    format: str = FORMAT  # which kind of receipt it is
    recipe: Mapping[str, Any]  # every parameter by its name, defaults too
    inputs: ReceiptInputs  # what was read
    output: ReceiptOutput  # what was written
    tasks: tuple[str, ...]  # their names
    shares: tuple[str, ...] | None  # exact numbers as text; None without a preference, and where it differs by layer
    preference: str | None  # as one would type it; None of a method without one
    elements: ReceiptElements  # how many, and what became of them
    totals: ReceiptTotals  # budgets and owners, summed over the tensors
    tensors: Mapping[str, ReceiptTensor]  # the same by tensor
    notes: tuple[str, ...]  # what to know of this merge, a sentence each
    added: Mapping[str, tuple[float, ...]] | None = None  # tensor -> what was added to its merged values
    run: ReceiptRun  # time, threads and versions: no value depends on these

    @property
    def owned(self) -> PerTask | None:
        """Elements per task over the model; None for methods in which an element has no owner."""
        return self.totals.owned

    @property
    def fingerprint(self) -> str:
        """The content fingerprint of the output."""
        return self.output.fingerprint

    @property
    def data(self) -> dict[str, Any]:
        """What `to_json` gives, by its older name."""
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """The JSON object; `from_json` takes it back."""
        return _plain(self)

    def to_bytes(self) -> bytes:
        """The receipt as it is written: that of thousands of tensors in groups (`grouped`)."""
        data = self.to_json()
        if len(self.tensors) >= grouped.MANY:
            data = grouped.grouped(data)
        # A path that is no valid UTF-8 holds surrogates; written as \\udc.. they are valid JSON and read back the same.
        return jsons.encoded(data, ascii=False, nan=True, by_line="tensors")

    def published(self, folder: str | Path) -> Receipt:
        """This receipt as it is written into a folder: without the host, and without paths that say where that is."""
        entries = (self.inputs.base, *self.inputs.tasks)
        known = [str(path) for entry in entries if entry.path for path in (entry.path, Path(entry.path).parent)]
        base, *tasks = (_told(entry, Path(folder)) for entry in entries)
        out = None if self.output.path is None else Path(self.output.path).name
        return replace(
            self,
            inputs=ReceiptInputs(base=base, tasks=tuple(tasks)),
            output=replace(self.output, path=out),
            notes=tuple(places.without_places(note, known) for note in self.notes),
            run=replace(self.run, host=None),
        )

    def written(self, folder: str | Path) -> bytes:
        """The bytes of `published`. What it does not say of the inputs' places is kept for this user."""
        told = self.published(folder)
        content = told.to_bytes()
        if any(entry.elsewhere for entry in (told.inputs.base, *told.inputs.tasks)):
            places.remember(content, [entry.place for entry in (self.inputs.base, *self.inputs.tasks)])
        return content

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all, as `published`."""
        path = Path(path)
        atomic.write_whole(path, self.written(path.absolute().parent))

    @classmethod
    def from_json(cls, data: Any, *, source: str | Path = "receipt") -> Receipt:
        """The receipt that a JSON object holds. Raises CheckpointCorrupt naming `source` and the key that is wrong."""
        given = data.get("format") if isinstance(data, dict) else type(data).__name__
        if given == grouped.FORMAT:
            try:
                data = grouped.whole(data, given := FORMAT)
            except grouped.Damaged as error:
                raise _damaged(source, *error.args) from None
        if given != FORMAT:
            raise CheckpointCorrupt(
                f"{source}: not a receipt that this version reads: expected format {FORMAT!r}, found {given!r}."
            )
        from pydantic import ValidationError

        try:
            receipt: Receipt = _reader().validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise _damaged(source, ".".join(map(str, first["loc"])), first["msg"]) from None
        for key, problem in receipt._problems():
            raise _damaged(source, key, problem)
        return receipt

    @classmethod
    def load(cls, path: str | Path, *, folder: str | Path | None = None) -> Receipt:
        """Read a receipt. Its relative paths begin in `folder`, by default the receipt's. Raises CheckpointCorrupt
        naming the file, and the key where one is wrong.
        """
        try:
            data = jsons.read(Path(path), nan=True)
        except (OSError, jsons.NotJson) as error:
            raise CheckpointCorrupt(f"{path}: not a readable receipt: {error}. {AGAIN}") from error
        receipt = cls.from_json(data, source=path)
        entries = (receipt.inputs.base, *receipt.inputs.tasks)
        kept: list[str | None] = [None] * len(entries)
        if any(entry.elsewhere for entry in entries):
            kept = places.remembered(Path(path), len(entries))
        beside = Path(path).absolute().parent if folder is None else Path(folder)
        base, *tasks = (_found_again(entry, place, beside) for entry, place in zip(entries, kept, strict=True))
        return replace(receipt, inputs=ReceiptInputs(base=base, tasks=tuple(tasks)))

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Key and problem of what the types do not say: parameters and their values, shares, and one count per task."""
        for required in (METHOD, AS_TASK_VECTOR):
            if required.name not in self.recipe:
                yield f"recipe.{required.name}", "Field required"
        if not isinstance(self.recipe.get(METHOD.name, ""), str):
            yield f"recipe.{METHOD.name}", "expected the name of a method"
        yield from self._wrong_values()
        rows: dict[str, ReceiptTotals | ReceiptTensor] = {"totals": self.totals}
        rows |= {f"tensors.{name}": tensor for name, tensor in self.tensors.items()}
        lists = {"inputs.tasks": self.inputs.tasks, "shares": self.shares}
        for where, row in rows.items():
            lists |= {f"{where}.{key}": getattr(row, key) for key in ("asked", "owned", "random", "prices")}
            lists |= {f"{where}.passes.{i}": counts for i, counts in enumerate(row.passes or ())}
        for key, values in lists.items():
            if values is not None and len(values) != len(self.tasks):
                yield key, f"{len(values)} entries for {len(self.tasks)} tasks"

    def _wrong_values(self) -> Iterator[tuple[str, str]]:
        for name, value in self.recipe.items():
            one = parameter(name)
            if one is None or value is None:
                continue  # of a method that is not registered here, or not used
            if one.per_task and not (isinstance(value, list) and len(value) == len(self.tasks)):
                yield f"recipe.{name}", f"expected a list with an entry for each of {len(self.tasks)} tasks"
                continue
            try:
                for each in value if one.per_task else [value]:
                    from_json(each) if one is PREFERENCE else one.read(each)
            except MethodError:
                pass  # of a method that is not registered here
            except (ValueError, PreferenceError) as error:
                yield f"recipe.{name}", str(error)
        for i, share in enumerate(self.shares or ()):
            try:
                exact(share)
            except PreferenceError as error:
                yield f"shares.{i}", str(error)


def _told(entry: ReceiptInput, folder: Path) -> ReceiptInput:
    """An input as a receipt in `folder` tells of it."""
    if entry.place is None:
        return entry
    path = places.told(entry.place, folder)
    return (
        replace(entry, path=places.name_alone(entry.place), elsewhere=True)
        if path is None
        else replace(entry, path=path)
    )


def _found_again(entry: ReceiptInput, kept: str | None, folder: Path) -> ReceiptInput:
    """The inverse: an input with its whole path, where it is known. `kept`: what this user's cache says."""
    if entry.path is None or (entry.elsewhere and kept is None):
        return entry
    path = kept if entry.elsewhere else places.absolute(entry.path, folder)
    return replace(entry, path=path, elsewhere=None)


@cache
def _reader() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Receipt)


def _damaged(source: str | Path, key: str, problem: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(f"{source}: the receipt is damaged: {key}: {problem}. {AGAIN}")


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(own) for own in value]
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    pairs = ((name, optional, getattr(value, name)) for name, optional in _keys(type(value)))
    return {name: _plain(own) for name, optional, own in pairs if own is not None or not optional}


@cache
def _keys(kind: type[Any]) -> tuple[tuple[str, bool], ...]:
    """The fields of a part of a receipt, and whether each is left out where it is None."""
    return tuple((field.name, field.default is None) for field in fields(kind))
