"""Scores of candidates by a command: written over one reading, scored several at once, removed, and each score kept.

    key = digest of the recipe, the inputs' fingerprints, the command and its budget    OUT/scores/KEY.json

So nothing is scored twice, whatever killed the search, and what was scored with other inputs or another command is
never taken. A candidate that cannot be merged, or that the command cannot score, gets a `Failure`, which is kept for
the report alone. Disk: as many models as `batch`, fewer where they do not fit, under OUT/candidates. Cost: for each
batch a reading of the inputs and the writing of its models; the command. Not here: which candidates (`search`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from prefmerge.errors import (
    CheckpointMismatch,
    DiskFull,
    DtypeOverflow,
    MethodError,
    PreferenceError,
    RecipeError,
    UsageError,
)
from prefmerge.ground import disk, jsons
from prefmerge.ground.store import Store, digest
from prefmerge.merging.many import Order, write_all
from prefmerge.merging.recipe import Recipe
from prefmerge.outputs.receipts import receipt_beside
from prefmerge.target.by_command.command import Command, CommandScore, Failure, Running
from prefmerge.target.by_command.number import MeasuredNumber, repeated
from prefmerge.target.by_command.sources import Sources
from prefmerge.target.search.space import Start
from prefmerge.target.search.trial import key_of

SCORES, SCRATCH = "scores", "candidates"  # in OUT
VERSION = 1  # of what a key is made of
# What is wrong with one candidate alone.
_ITS_OWN = (DtypeOverflow, MethodError, PreferenceError, RecipeError, UsageError, CheckpointMismatch)


class CommandScoring:
    """Scores for one search in the folder `out`, which the caller has locked. `jobs`: commands at once."""

    def __init__(
        self, sources: Sources, out: Path, *, jobs: int, batch: int, threads: int | None, max_memory: str
    ) -> None:
        self._sources, self._jobs, self._batch = sources, jobs, batch
        self._threads, self._max_memory = threads, max_memory
        self._scratch = Path(os.path.abspath(out)) / SCRATCH
        self._store = Store(out / SCORES, ".json")
        self._known: dict[str, CommandScore] = {}
        self.commands = 0  # that were run
        self.written = 0  # candidates
        disk.remove(self._scratch)  # what a kill left

    def close(self) -> None:
        """Remove what is left of candidates."""
        disk.remove(self._scratch)

    def key(self, start: Start, command: Command, budget: str) -> str:
        """What decides a score."""
        made = key_of(start.settings, start.task)
        inputs = self._sources.fingerprints if start.task is None else [self._sources.input(start.task).fingerprint]
        names = self._sources.names if start.task is None else ()
        return digest([VERSION, made, inputs, names, self._sources.kind, command.text, command.key, budget])

    def kept(self, start: Start, command: Command, budget: str) -> CommandScore | None:
        """The score that an earlier call has kept, or why there was none."""
        return self._known.get(key := self.key(start, command, budget)) or self._read(key)

    def forget(self, starts: Sequence[Start], command: Command, budget: str) -> None:
        """Keep nothing of these, and no folder of scores where that was all."""
        for start in starts:
            key = self.key(start, command, budget)
            self._known.pop(key, None)
            self._store.file(key).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: then it stays
            self._store.folder.rmdir()

    def each(
        self,
        starts: Sequence[Start],
        command: Command,
        budget: str = "",
        seen: Callable[[], None] | None = None,
        repeats: int = 1,
    ) -> Iterator[CommandScore]:
        """The score of each, in order, as soon as it and those before it are known. `seen`: called after each that was
        not known before. `repeats`: how often the command is run for each; the score is then a `RepeatedNumber`.
        """
        waiting: dict[str, Start] = {}
        keys = [self.key(start, command, budget) for start in starts]
        for key, start in zip(keys, starts, strict=True):
            for run in _runs(key, repeats):
                if run not in self._known and isinstance(score := self._read(run), MeasuredNumber):
                    self._known[run] = score
            if self._whole(key, repeats) is None:
                waiting[key] = start
        told = 0
        for _ in self._scored(waiting, command, budget, repeats):
            if seen is not None:
                seen()
            while told < len(keys) and (score := self._whole(keys[told], repeats)) is not None:
                yield score
                told += 1
        for key in keys[told:]:
            score = self._whole(key, repeats)
            assert score is not None
            yield score

    def _whole(self, key: str, repeats: int) -> CommandScore | None:
        """The score of what is known; None while runs are missing."""
        known = [self._known.get(run) for run in _runs(key, repeats)]
        failed = next((one for one in known if isinstance(one, Failure)), None)
        if failed is not None:
            return failed
        measured = [one for one in known if isinstance(one, MeasuredNumber)]
        if len(measured) < len(known):
            return None
        return measured[0] if repeats == 1 else repeated(measured)

    def _scored(self, waiting: Mapping[str, Start], command: Command, budget: str, repeats: int) -> Iterator[str]:
        """Score what is waiting, a batch after the other. Gives the key of each as it is known."""
        rest = list(waiting.items())
        running = Running()
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="score") as pool:
            slots: SimpleQueue[int] = SimpleQueue()
            for slot in range(self._jobs):
                slots.put(slot)
            try:
                while rest:
                    batch, rest = rest[: self._batch], rest[self._batch :]
                    try:
                        models = self._models(dict(batch))
                    except DiskFull:
                        if len(batch) == 1:
                            raise
                        disk.remove(self._scratch)  # no command is at work
                        self._batch, rest = len(batch) // 2, [*batch, *rest]
                        continue
                    futures: dict[Future[tuple[str, CommandScore]], str] = {}
                    for key, model in models.items():
                        if isinstance(model, Failure):
                            self._keep(key, model)
                            yield key
                        else:
                            job = pool.submit(self._one, key, model, command, budget, repeats, running, slots)
                            futures[job] = key
                    for future in as_completed(futures):
                        self._keep(*future.result())
                        yield futures[future]
            except BaseException:  # Ctrl-C: the commands end with it
                running.end()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(
        self,
        key: str,
        model: Path,
        command: Command,
        budget: str,
        repeats: int,
        running: Running,
        slots: SimpleQueue[int],
    ) -> tuple[str, CommandScore]:
        """Run the command on a model, as often as it is not known yet, and remove the model if it is a candidate. Gives
        the last run, or the first that fails; those before it are kept.
        """
        slot, out = slots.get(), self._scratch / f"{key}.out"
        try:
            last: tuple[str, CommandScore] | None = None
            for repeat, run in enumerate(_runs(key, repeats), 1):
                if run in self._known:
                    last = last or (run, self._known[run])
                    continue
                disk.remove(out)
                out.mkdir(parents=True, exist_ok=True)
                self.commands += 1
                words = {"model": str(model), "budget": budget, "out": str(out), "job": str(slot)}
                last = run, command.score({**words, "repeat": str(repeat)}, running)
                if isinstance(last[1], Failure):
                    break
                if repeat < repeats:
                    self._keep(*last)
            assert last is not None
            return last
        finally:
            slots.put(slot)
            disk.remove(out)
            if model.parent == self._scratch:
                disk.remove(model)
                disk.remove(receipt_beside(model))

    def _models(self, waiting: Mapping[str, Start]) -> dict[str, Path | Failure]:
        """Where the model of each is: an input as it stands, or written now."""
        models: dict[str, Path | Failure] = {}
        orders: dict[str, Order] = {}
        for key, start in waiting.items():
            place = None if start.task is None else self._sources.input(start.task).place
            if place is not None:
                models[key] = place
                continue
            try:
                ending = ".safetensors" if self._sources.kind == "file" else ""
                orders[key] = Order(self._sources.recipe(start), self._scratch / f"{key}{ending}")
            except _ITS_OWN as error:
                models[key] = Failure(str(error))
        for alike in _over_the_same(orders):
            models |= self._written(alike)
        return {key: models[key] for key in waiting}

    def _written(self, orders: Mapping[str, Order]) -> dict[str, Path | Failure]:
        """Candidates over the same checkpoints, in one reading; each alone where they cannot be made together."""
        try:
            write_all(list(orders.values()), threads=self._threads, max_memory=self._max_memory)
        except _ITS_OWN as error:
            if len(orders) > 1:
                return {key: one for key, order in orders.items() for one in self._written({key: order}).values()}
            return dict.fromkeys(orders, Failure(str(error)))
        self.written += len(orders)
        return {key: order.out for key, order in orders.items()}

    def _read(self, key: str) -> CommandScore | None:
        content = self._store.read(key)
        try:
            kept = None if content is None else jsons.decoded(content)
            if isinstance(kept, dict):
                return Failure(str(kept["why"])) if "why" in kept else MeasuredNumber(kept["value"], kept["error"])
        except (jsons.NotJson, KeyError):
            pass
        return None

    def _keep(self, key: str, score: CommandScore) -> None:
        self._known[key] = score
        self._store.write(key, json.dumps(asdict(score)).encode())


def _runs(key: str, repeats: int) -> list[str]:
    """The keys of the runs of a command on one model; the first is that of one run alone."""
    return [key, *(digest([key, repeat]) for repeat in range(2, repeats + 1))]


def _over_the_same(orders: Mapping[str, Order]) -> list[dict[str, Order]]:
    """The orders, together where one reading does for them."""
    groups: dict[tuple[str | None, tuple[str, ...]], dict[str, Order]] = {}
    for key, order in orders.items():
        groups.setdefault(_paths(order.recipe), {})[key] = order
    return list(groups.values())


def _paths(recipe: Recipe) -> tuple[str | None, tuple[str, ...]]:
    return recipe.base, tuple(task.path for task in recipe.tasks)
