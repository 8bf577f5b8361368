"""Merges whose scope is the whole model, on a cluster of Ray: each machine has some of the tensors, and one asks them.

    make(parts, plans, places, ...)     every tensor merged into the outputs' files, with pieces that say so

Each worker has neighbouring tensors, a section of the scope (`methods.sections`), in memory of its own: what is known
of every element stays where it is read. The machine that asks adds up what they tell, as one machine would, and each
worker then merges its own tensors. So bytes and receipt are those of one machine. A worker that is lost is replaced:
another one reads the same tensors and is asked the same again, which gives the same answers. Cost: the readings of one
machine, shared out; a few messages for each question. A lost worker's readings are done again. Not here: what is asked
(`methods`), tensors that are scopes of their own (`on_ray`).
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefmerge.merging.cluster import TRIES, said
from prefmerge.merging.engine import SomeOfModels
from prefmerge.merging.plan import Plan
from prefmerge.merging.scopes import prepared_alike
from prefmerge.merging.worker import MergeJob, RemoteOutput, keeping, opened
from prefmerge.methods import Report
from prefmerge.methods.sections import InSections, ScopeSection
from prefmerge.vectors.workspace import Workspace

_Answer = TypeVar("_Answer")
Progressed = Callable[[int], None]  # called with the bytes that are made
_Call = tuple[str, tuple[Any, ...]]  # a method of a worker, and what it is given
_Shared = tuple[list[RemoteOutput], str, int, int, bool]  # with the folder that paths begin in, and `how` of `make`


def make(
    parts: Sequence[RemoteOutput], plans: Sequence[Plan], places: int, how: tuple[int, int, bool], ended: Progressed
) -> None:
    """Have all merged tensors of these parts made, by as many workers as there are places at most. `how`: threads and
    memory of each, and whether the pieces say what of the changes is kept. Raises as `on_ray.make`.
    """
    firsts = prepared_alike(plans)
    sections = [names for names, _ in neighbours(plans, places)]
    with said(parts[0].target), contextlib.closing(_Workers(how[0])) as workers:
        workers.open((list(parts), os.getcwd(), *how), sections)
        for first in sorted(set(firsts)):
            alike = [i for i, one in enumerate(firsts) if one == first]
            plan = plans[first]
            assert isinstance(plan.method, InSections)
            if not all(all(workers.call("finished", i)) for i in alike):
                workers.begin(first)
                with Workspace(threads=how[0], memory=how[1]) as work:
                    report = plan.method.conduct(plan.settings, workers.ask, work)
                workers.call("write", alike, report)
                workers.end()
            ended(sum(merged_bytes([plans[i] for i in alike]).values()))


def merged_bytes(plans: Sequence[Plan]) -> dict[str, int]:
    """The tensors that any plan merges, in their order, and how many bytes each has in the outputs."""
    sizes: dict[str, int] = {}
    for plan in plans:
        for entry in plan.of_role("merge"):
            sizes[entry.name] = sizes.get(entry.name, 0) + entry.info.size * entry.dtype.itemsize
    order = {entry.name: i for i, entry in enumerate(plans[0].entries)}
    return dict(sorted(sizes.items(), key=lambda item: order[item[0]]))


def neighbours(plans: Sequence[Plan], most: int) -> list[tuple[list[str], int]]:
    """The tensors that any plan merges, in at most so many groups of neighbours of about one size, in their order; and
    how many bytes each group has.
    """
    sizes = merged_bytes(plans)
    everything, before = max(1, sum(sizes.values())), 0
    groups: dict[int, tuple[list[str], int]] = {}
    for name, size in sizes.items():
        names, own = groups.get(place := min(most - 1, before * most // everything), ([], 0))
        groups[place] = ([*names, name], own + size)
        before += size
    return list(groups.values())


class _Workers:
    """One worker for each section. `ask` is the `Ask` of the scope that has begun. `threads`: of each."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._actors: list[Any] = []
        self._lost: list[int] = []
        self._before: list[list[_Call]] = []  # what each worker was asked, and another one must be in its place

    def open(self, shared: _Shared, sections: Sequence[Sequence[str]]) -> None:
        """Have a worker for each section open its tensors."""
        import ray

        sent = ray.put(shared)
        self._actors = [self._hire(self._threads) for _ in sections]
        self._lost, self._before = [0] * len(sections), [[] for _ in sections]
        self._each([("open", (sent, list(names))) for names in sections], kept=True)

    def begin(self, plan: int) -> None:
        """The sections are of this plan's scope, until `end`."""
        self._each([("begin", (plan,))] * len(self._actors), kept=True)

    def end(self) -> None:
        for calls in self._before:
            del calls[1:]

    def ask(self, question: Callable[..., _Answer], /, *given: Any, each: Sequence[Any] | None = None) -> list[_Answer]:
        """As `methods.sections.Ask`."""
        own = [given if each is None else (each[i], *given) for i in range(len(self._actors))]
        # Sent as bytes: arrays that Ray hands over itself cannot be written to.
        answers = self._each([("ask", (pickle.dumps((question, one)),)) for one in own], kept=True)
        return [pickle.loads(answer) for answer in answers]

    def call(self, what: str, *given: Any) -> list[Any]:
        """The same of each worker itself; one that takes the place of another is not asked this again."""
        return self._each([(what, given)] * len(self._actors))

    def close(self) -> None:
        for actor in self._actors:
            self._end(actor)

    def _each(self, calls: Sequence[_Call], *, kept: bool = False) -> list[Any]:
        refs = [self._send(actor, call) for actor, call in zip(self._actors, calls, strict=True)]
        answers = [self._answer(i, ref, call) for i, (ref, call) in enumerate(zip(refs, calls, strict=True))]
        if kept:
            for before, call in zip(self._before, calls, strict=True):
                before.append(call)
        return answers

    def _answer(self, section: int, ref: Any, call: _Call) -> Any:
        """The answer of a worker; where it is lost, of one that was asked all the same before."""
        import ray
        from ray.exceptions import ObjectLostError, RayActorError

        refs = [ref]
        while True:
            try:
                return ray.get(refs)[-1]
            except (RayActorError, ObjectLostError):
                self._lost[section] += 1
                if self._lost[section] == TRIES:
                    raise
            self._end(self._actors[section])
            # It asks for no processor: those of a machine that is lost do not come back.
            actor = self._actors[section] = self._hire(0)
            refs = [self._send(actor, one) for one in (*self._before[section], call)]

    def _hire(self, processors: int) -> Any:
        import ray

        return ray.remote(num_cpus=processors, max_restarts=0)(_Worker).remote()

    def _send(self, actor: Any, call: _Call) -> Any:
        what, given = call
        return getattr(actor, what).remote(*given)

    def _end(self, actor: Any) -> None:
        import ray

        with contextlib.suppress(Exception):  # it may be gone
            ray.kill(actor)


class _Worker:
    """What a worker has: some tensors, open, and the section of one plan."""

    _jobs: list[MergeJob]
    _some: SomeOfModels
    _section: ScopeSection | None = None

    def open(self, shared: _Shared, names: list[str]) -> None:
        parts, cwd, threads, memory, measured = shared
        os.chdir(cwd)  # paths in a recipe may begin there
        self._opened = contextlib.ExitStack()  # ends with the process
        self._jobs, work = self._opened.enter_context(opened(parts, threads, memory))
        self._some = SomeOfModels(self._jobs, work, frozenset(names), measured=measured)

    def finished(self, plan: int) -> bool:
        with keeping(self._jobs):
            return self._some.finished(plan)

    def begin(self, plan: int) -> None:
        self._section = None  # its memory first
        self._section = self._some.section(plan)

    def ask(self, asked: bytes) -> bytes:
        question, given = pickle.loads(asked)
        with keeping(self._jobs):
            return pickle.dumps(question(self._section, *given))

    def write(self, plans: list[int], report: Report) -> None:
        assert self._section is not None
        rule, self._section = self._section.rule(report), None
        with keeping(self._jobs):
            self._some.write(plans, rule)
