"""What a worker on another machine must know of outputs, and what it opens to merge some of their tensors.

    with opened(parts, threads, memory) as (jobs, work): ...

The recipe is opened again there, so paths must lead to the same files on every machine; what is opened is compared with
what the machine that asks has, by the key of each output. Cost: the opening of all inputs. Not here: what is merged
(`engine`) and who is given which tensors (`on_ray`, `in_sections`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import OutputError, PrefmergeError
from prefmerge.merging.added import Added, Adding
from prefmerge.merging.pieces import Pieces, key_of
from prefmerge.merging.plan import Plan, make_plan, plan_over
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.sinks import HashedSink
from prefmerge.outputs.shards import Shard, ShardFiles
from prefmerge.outputs.write import Output
from prefmerge.vectors.workspace import Workspace

MergeJob = tuple[Plan, HashedSink | Adding, Pieces]


@dataclass(frozen=True)
class RemoteOutput:
    """One output of a merge on several machines: what every worker must know of it. `key`: as `key_of` gives it."""

    recipe: Recipe
    added: Added | None
    key: str
    output_key: str
    folder: Path  # of its weights files
    pieces: Path
    shards: Sequence[Shard]
    target: Path

    @classmethod
    def of(cls, recipe: Recipe, added: Added | None, key: str, output: Output) -> RemoteOutput:
        assert output.key is not None
        files = output.weights
        return cls(recipe, added, key, output.key, files.folder, output.pieces, output.shards, output.target)


@contextlib.contextmanager
def opened(parts: Sequence[RemoteOutput], threads: int, memory: int) -> Iterator[tuple[list[MergeJob], Workspace]]:
    """A job for each part, over one set of open inputs, and where to do them. Raises OutputError where the inputs or
    the versions are not those of the machine that asks.
    """
    same = Sameness()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(make_plan(parts[0].recipe, same))
        inputs = (first.given_base, [original(task.checkpoint) for task in first.tasks])
        plans = [first, *(plan_over(part.recipe, *inputs, same) for part in parts[1:])]
        jobs: list[MergeJob] = []
        for part, plan in zip(parts, plans, strict=True):
            if key_of(plan, part.added) != part.key:
                raise OutputError(
                    f"{part.target}: a machine of the cluster has other inputs or another version of prefmerge, NumPy, "
                    "Numba or Python. Make them the same on all."
                )
            files = ShardFiles(part.folder, part.shards, part.target)
            stack.callback(files.close)
            hashed = HashedSink(files, plan.layout)
            sink = Adding(hashed, plan.layout, part.added) if part.added else hashed
            jobs.append((plan, sink, Pieces(part.pieces, part.output_key, plan, files, hashed, part.target)))
        yield jobs, stack.enter_context(Workspace(threads=threads, memory=memory))


@contextlib.contextmanager
def keeping(jobs: Sequence[MergeJob]) -> Iterator[None]:
    """A block that reads the inputs and merges; what it finished is kept, however it ends."""
    with jobs[0][0].reading():
        try:
            yield
        finally:
            for _, _, pieces in jobs:
                with contextlib.suppress(PrefmergeError):  # an error that ends a merge is the one to tell
                    pieces.flush()
