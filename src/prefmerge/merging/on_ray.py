"""A merge cut into groups of tensors, each a task of Ray on some machine that sees the same files.

    make(parts, address, ...)      every group merged into the outputs' files, with pieces that say so

The output is laid out first, on the machine that asks; a task opens the same recipe, merges its tensors into their
places in the output's files and leaves pieces (`pieces`), which that machine takes as those of an interrupted merge:
checked by their hashes, so what a lost machine left half done is made again, there or here. So bytes and receipt are
those of one machine. A task that is lost is given out again. All machines need one version of everything, and the paths
of inputs and output must lead to the same files on each. Source: Ray (Moritz et al. 2018). Cost: each input is read
once, over all machines; a task costs the opening of all inputs. Not here: what is copied, which the machine that asks
does; scope `model`, which one machine must do (`require_by_tensor`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import OutputError, PrefmergeError, UsageError, require
from prefmerge.ground.progress import Progress
from prefmerge.ground.words import counted
from prefmerge.merging.added import Added, Adding
from prefmerge.merging.engine import merge_some
from prefmerge.merging.pieces import Pieces, key_of
from prefmerge.merging.plan import Plan, make_plan, plan_over
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.sinks import HashedSink
from prefmerge.outputs.shards import Shard, ShardFiles
from prefmerge.outputs.write import Output
from prefmerge.vectors.workspace import Workspace

GROUPS = 4  # for each processor of the cluster, so that none waits long for the last
TRIES = 4  # of a group whose worker is lost


@dataclass(frozen=True)
class OnRay:
    """One output of a merge on Ray: what every task must know of it. `key`: as `key_of` gives it."""

    recipe: Recipe
    added: Added | None
    key: str
    output_key: str
    folder: Path  # of its weights files
    pieces: Path
    shards: Sequence[Shard]
    target: Path

    @classmethod
    def of(cls, recipe: Recipe, added: Added | None, key: str, output: Output) -> OnRay:
        assert output.key is not None
        files = output.weights
        return cls(recipe, added, key, output.key, files.folder, output.pieces, output.shards, output.target)


def require_by_tensor(plan: Plan) -> None:
    """Raise UsageError for budgets over the whole model."""
    if not plan.method.by_tensor(plan.settings):
        raise UsageError(
            "--ray and --scope model do not go together: to choose over the whole model, one machine must see all "
            "tensors. Leave --ray out, or use --scope tensor."
        )


def make(
    parts: Sequence[OnRay],
    plans: Sequence[Plan],
    address: str,
    *,
    threads: int,
    memory: int,
    hold: int,
    measured: bool = False,
    progress: Progress | None = None,
) -> None:
    """Have all merged tensors of all parts made. `address`: of a cluster, or `local` for one on this machine that ends
    with the call; a cluster that this process is connected to is used as it is. `threads`, `memory`, `hold`: of each
    task. `measured`: the pieces say what of the changes is kept.

    Raises MissingExtra, UsageError where no cluster answers, OutputError where a group's workers are lost again and
    again, and what a merge raises.
    """
    require("--ray", "ray", "ray")
    import ray

    with _connected(address):
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if threads > most:
            raise UsageError(
                f"--threads {threads}: the largest machine of the cluster has {counted(most, 'processor')}. Give "
                f"--threads {most} or less, or leave it out."
            )
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        groups = grouped(plans, GROUPS * processors)
        everything, done = sum(size for _, size in groups), 0
        task = ray.remote(num_cpus=threads, max_retries=TRIES - 1)(_merge_group)
        shared = ray.put((list(parts), os.getcwd(), threads, memory, hold, measured))
        waiting = {task.remote(shared, names): size for names, size in groups}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for one in ready:
                with _said(parts[0].target):
                    ray.get(one)
                done += waiting.pop(one)
                if progress is not None:
                    progress(done, everything, "merging on Ray")


def grouped(plans: Sequence[Plan], most: int) -> list[tuple[list[str], int]]:
    """The tensors that any plan merges, in about `most` groups of neighbours at most, and how many bytes each group has
    in the outputs.
    """
    sizes: dict[str, int] = {}
    for plan in plans:
        for entry in plan.of_role("merge"):
            sizes[entry.name] = sizes.get(entry.name, 0) + entry.info.size * entry.dtype.itemsize
    limit, groups = -(-sum(sizes.values()) // most), list[tuple[list[str], int]]()
    for name in sorted(sizes):  # in this order tensors lie in files
        if groups and groups[-1][1] + sizes[name] <= limit:
            groups[-1] = ([*groups[-1][0], name], groups[-1][1] + sizes[name])
        else:
            groups.append(([name], sizes[name]))
    return groups


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A cluster, for the block; one that this process has found before stays connected."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without an address Ray would join what RAY_ADDRESS names, or what runs here already.
    given: dict[str, Any] = {"address": address} | ({"include_dashboard": False} if address == "local" else {})
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--ray {address}: no cluster answers there ({error}). Give the address of one, or `local`."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _said(target: Path) -> Iterator[None]:
    """What a task raised, as it would be raised here."""
    import ray.exceptions as raised

    try:
        yield
    except raised.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, PrefmergeError) else OutputError(f"{target}: {cause}")) from error
    except raised.RayError as error:
        raise OutputError(
            f"{target}: the workers that merged a part of it were lost {TRIES} times ({type(error).__name__}). Look "
            "for what ends them, such as too little memory; --resume keeps what is finished."
        ) from error


def _merge_group(shared: tuple[list[OnRay], str, int, int, int, bool], names: list[str]) -> None:
    """What a worker does: merge these tensors for every part that wants them."""
    parts, cwd, threads, memory, hold, measured = shared
    os.chdir(cwd)  # paths in a recipe may begin there
    same = Sameness()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(make_plan(parts[0].recipe, same))
        inputs = (first.given_base, [original(task.checkpoint) for task in first.tasks])
        plans = [first, *(plan_over(part.recipe, *inputs, same) for part in parts[1:])]
        jobs: list[tuple[Any, ...]] = []
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
        with Workspace(threads=threads, memory=memory) as work, first.reading():
            try:
                merge_some(jobs, work, frozenset(names), hold=hold, measured=measured)
            finally:
                for _, _, pieces in jobs:
                    with contextlib.suppress(PrefmergeError):
                        pieces.flush()
