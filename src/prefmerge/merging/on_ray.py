"""A merge cut into groups of tensors, each a task of Ray on some machine that sees the same files.

    make(parts, plans, address, ...)     every group merged into the outputs' files, with pieces that say so

The output is laid out first, on the machine that asks; a task opens the same recipe, merges its tensors into their
places in the output's files and leaves pieces (`pieces`), which that machine takes as those of an interrupted merge:
checked by their hashes, so what a lost machine left half done is made again, there or here. So bytes and receipt are
those of one machine. A task that is lost is given out again. All machines need one version of everything, and the paths
of inputs and output must lead to the same files on each. Plans whose scope is the whole model are cut otherwise
(`in_sections`). Source: Ray (Moritz et al. 2018). Cost: each input is read once, over all machines; a task costs the
opening of all inputs. Not here: what is copied, which the machine that asks does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prefmerge.errors import UsageError
from prefmerge.ground.progress import Progress
from prefmerge.merging import in_sections
from prefmerge.merging.cluster import TRIES, connected, places_for, said
from prefmerge.merging.engine import merge_some
from prefmerge.merging.plan import Plan
from prefmerge.merging.worker import RemoteOutput, keeping, opened
from prefmerge.methods.sections import InSections

GROUPS = 4  # for each processor of the cluster, so that none waits long for the last


def require_in_sections(plan: Plan) -> None:
    """Raise UsageError for a method that chooses over the whole model in a way that machines cannot share."""
    if not plan.method.by_tensor(plan.settings) and not isinstance(plan.method, InSections):
        raise UsageError(
            f"--ray and --scope model do not go together with {plan.method.name}: its choice over the whole model "
            "needs one machine that sees all tensors. Leave --ray out, or use --scope tensor."
        )


def make(
    parts: Sequence[RemoteOutput],
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
    with connected(address):
        places = places_for(threads)
        by_tensor = [plan.method.by_tensor(plan.settings) for plan in plans]
        merged = sum(size for _, size in grouped(plans, 1))
        done = 0

        def ended(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(done, merged, "merging on Ray")

        alone = [i for i, one in enumerate(by_tensor) if one]
        if alone:
            how = (threads, memory, hold, measured)
            _by_tensor([parts[i] for i in alone], [plans[i] for i in alone], GROUPS * places, how, ended)
        whole = [i for i, one in enumerate(by_tensor) if not one]
        if whole:
            how = (threads, memory, measured)
            in_sections.make([parts[i] for i in whole], [plans[i] for i in whole], places, how, ended)


def _by_tensor(
    parts: Sequence[RemoteOutput],
    plans: Sequence[Plan],
    most: int,
    how: tuple[int, int, int, bool],
    ended: in_sections.Progressed,
) -> None:
    """Have the tensors merged, each a scope of its own. `how`: threads, memory, hold, measured."""
    import ray

    task = ray.remote(num_cpus=how[0], max_retries=TRIES - 1)(_merge_group)
    shared = ray.put((list(parts), os.getcwd(), *how))
    waiting = {task.remote(shared, names): size for names, size in grouped(plans, most)}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        for one in ready:
            with said(parts[0].target):
                ray.get(one)
            ended(waiting.pop(one))


def grouped(plans: Sequence[Plan], most: int) -> list[tuple[list[str], int]]:
    """The tensors that any plan merges, in about `most` groups of neighbours at most, and how many bytes each group has
    in the outputs.
    """
    sizes = in_sections.merged_bytes(plans)
    limit, groups = -(-sum(sizes.values()) // most), list[tuple[list[str], int]]()
    for name in sorted(sizes):  # in this order tensors lie in files
        if groups and groups[-1][1] + sizes[name] <= limit:
            groups[-1] = ([*groups[-1][0], name], groups[-1][1] + sizes[name])
        else:
            groups.append(([name], sizes[name]))
    return groups


def _merge_group(shared: tuple[list[RemoteOutput], str, int, int, int, bool], names: list[str]) -> None:
    """What a worker does: merge these tensors for every part that wants them."""
    parts, cwd, threads, memory, hold, measured = shared
    os.chdir(cwd)  # paths in a recipe may begin there
    with opened(parts, threads, memory) as (jobs, work), keeping(jobs):
        merge_some(jobs, work, frozenset(names), hold=hold, measured=measured)
