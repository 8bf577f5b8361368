"""What each task calls the base's tensors.

    base  encoder.0.weight      task  module.bert.encoder.0.weight, classifier.weight
    ->    {"encoder.0.weight": "module.bert.encoder.0.weight"}, and a note

A name stands for itself where both sides have it: where all do, nothing else is tried. Else names are compared as
`--rename` makes them, without wrappers and as all versions of a library write them (`known_names`), and then without
the prefixes, or the modules in the middle, whose removal on one side makes the most names equal. What is taken must
give every tensor that is merged one name and no two, with the base's shape; what only the task has must be a buffer, a
head or a copy. All else is one error (`mismatch`) about all tasks.
Cost: names and shapes, and the values of what may be copies. Not here: what is known of names, what a merge does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from prefmerge.checkpoints import Checkpoint
from prefmerge.checkpoints.paths import split_stack
from prefmerge.errors import CheckpointMismatch, RecipeError
from prefmerge.ground.words import counted, nearest, quoted
from prefmerge.merging.known_names import (
    branches,
    is_buffer,
    is_head,
    is_of_adapter,
    plain_names,
    without_wrappers,
    wrappers_in,
)
from prefmerge.merging.parameters import EXCLUDE, RENAME, rename_rule
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness
from prefmerge.merging.unmergeable import same_values

ROUNDS = 4  # of steps that are looked for
PROBES = 4  # names that steps are looked for with
OPTIONS = 12  # steps that are tried in a round
SHOWN = 5  # names listed in a note
ONE_TENSOR = ": they are taken for one tensor."


class Step(NamedTuple):
    """Something to leave out of the names of one side: `net.` in front, or anywhere."""

    of_base: bool
    run: str
    anywhere: bool

    def __call__(self, name: str) -> str:
        return f".{name}".replace(f".{self.run}", ".")[1:] if self.anywhere else name.removeprefix(self.run)


@dataclass(frozen=True)
class Pairing:
    """Names of both sides by what they are compared as, and which of them are equal then."""

    base: dict[str, str]
    task: dict[str, str]
    steps: tuple[Step, ...] = ()

    def after(self, steps: Sequence[Step]) -> Pairing:
        base, task = self.base, self.task
        for step in steps:
            if step.of_base:
                base = {name: step(key) for name, key in base.items()}
            else:
                task = {name: step(key) for name, key in task.items()}
        return Pairing(base, task, (*self.steps, *steps))

    @cached_property
    def candidates(self) -> dict[str, list[str]]:
        """The task's names for each of the base's that has any."""
        named: dict[str, list[str]] = {}
        for name, key in self.task.items():
            named.setdefault(key, []).append(name)
        once = Counter(self.base.values())
        several = {name: [name] if name in self.task else [] for name, key in self.base.items() if once[key] > 1}
        rows = ((name, several.get(name, named.get(key, []))) for name, key in self.base.items())
        return {name: own for name, own in rows if own}


@dataclass
class Names:
    """What one task calls the base's tensors, and what is wrong with that."""

    who: str
    where: str
    own: dict[str, str] = field(default_factory=dict)  # base's name -> task's; of buffers and excluded ones too
    kept: set[str] = field(default_factory=set)  # buffers of the base that the task lacks
    notes: list[tuple[str, str]] = field(default_factory=list)  # what stands before and behind the task's name
    missing: list[str] = field(default_factory=list)
    foreign: dict[str, str] = field(default_factory=dict)  # task's name -> what it was compared as
    double: dict[str, list[str]] = field(default_factory=dict)  # base's name -> the task's names that could be it
    unlike: list[str] = field(default_factory=list)  # base's names of tensors of another shape or kind of number

    @property
    def wrong(self) -> bool:
        return bool(self.missing or self.foreign or self.double or self.unlike)


def match(
    recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], names: Sequence[str], sameness: Sameness
) -> list[Names]:
    """What each task calls the base's tensors. Raises RecipeError for a `--rename` that is of no use, and
    CheckpointMismatch for a base that holds parts of adapters which a task changed.
    """
    _refuse_adapters(recipe, base, tasks, sameness)
    called = [{name: name for name in task.tensors} for task in tasks]
    for rule in recipe[RENAME]:
        old, by = rename_rule(rule)
        renamed = [{name: old.subn(by, new) for name, new in names.items()} for names in called]
        if not any(count for names in renamed for _, count in names.values()):
            raise RecipeError(
                f"--rename {rule!r} matches no tensor of a task{_nearest(rule, called)}. What stands before the last = "
                "is a regular expression, which is searched for in the tasks' names."
            )
        called = [{name: new for name, (new, _) in names.items()} for names in renamed]
    for who, own in zip(names, called, strict=True):
        _refuse_one_name(own, who)
    rows = zip(tasks, names, called, strict=True)
    return [_Matcher(recipe, base, task, who, own, sameness).names() for task, who, own in rows]


def _refuse_adapters(recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], sameness: Sameness) -> None:
    """Models of several kinds of inputs are published with adapters in them, which training may leave as they are."""
    excluded = excluder(recipe[EXCLUDE])
    parts = [name for name in base.tensors if is_of_adapter(name) and not excluded(name)]
    if parts and not all(_is_unchanged(base, name, task, sameness) for task in tasks for name in parts):
        patterns = dict.fromkeys(re.findall(r"lora_|dora_|hada_|lokr_|oft_|ia3_|vera_", " ".join(parts)))
        flags = " ".join(f"--exclude '*{pattern}*'" for pattern in patterns)
        raise CheckpointMismatch(
            f"base ({base.name}) holds {_counted('tensor', parts)} of adapters. A model changes by their products, and "
            "products of merged factors are not the merged products. Put them into the weights and save those first "
            "(merge_and_unload() of PEFT), or give the model without them as the base, and adapters as tasks. Where "
            f"they belong to the model, {flags} keeps the base's."
        )


def _is_unchanged(base: Checkpoint, name: str, task: Checkpoint, sameness: Sameness) -> bool:
    """Whether a task has a tensor of the base under its own name, and as the base has it."""
    if name not in task.tensors or task.tensors[name].shape != base.tensors[name].shape:
        return False
    return sameness.unchanged(base, name, task, name)


def _nearest(rule: str, called: Sequence[Mapping[str, str]]) -> str:
    parts = {part for names in called for name in names.values() for part in name.split(".")}
    near = nearest(re.sub(r"\W", "", rule.rpartition("=")[0]), parts)
    return "" if near is None else f"; the nearest part of a name is {near!r}"


def _refuse_one_name(called: Mapping[str, str], who: str) -> None:
    first: dict[str, str] = {}
    for name, new in called.items():
        if first.setdefault(new, name) != name:
            raise RecipeError(
                f"--rename gives two tensors of task {who!r} one name, {new!r}: {first[new]!r} and {name!r}. Make its "
                "expression match one of them."
            )


class _Matcher:
    """One task beside the base. `called`: the task's names as the user renames them."""

    def __init__(
        self,
        recipe: Recipe,
        base: Checkpoint,
        task: Checkpoint,
        who: str,
        called: Mapping[str, str],
        sameness: Sameness,
    ) -> None:
        self.base, self.task, self.who, self.called, self.sameness = base, task, who, called, sameness
        self.excluded = excluder(recipe[EXCLUDE])
        self.needed = [
            name for name, info in base.tensors.items() if info.dtype.family == "float" and not self.excluded(name)
        ]
        self.plain: tuple[dict[str, str], dict[str, str]] = ({}, {})  # of the base's names and of the task's, if needed
        self.twins: dict[str, str] = {}
        self.groups: dict[str, list[str]] = {}  # names in the base that share elements, by the first of them
        for name, first in base.aliases.items():
            self.groups.setdefault(first, [first]).append(name)

    def names(self) -> Names:
        path = self.task.path
        called = self.task.name if path is None else path.name if split_stack(path) is None else str(path)
        result = Names(self.who, f"task {self.who!r} ({called})")
        pairing = Pairing({name: name for name in self.base.tensors}, dict(self.called))
        self._pair(result, pairing)
        if result.missing:
            better = self._search(result)
            if better is not None:
                pairing = better
                self._pair(result, better)
                result.notes += self._notes(better, result.own)
        self._explain_the_rest(result, pairing)
        result.unlike = [
            name
            for name, own in result.own.items()
            if not self.excluded(name) and not _alike(self.base, name, self.task, own)
        ]
        return result

    def _pair(self, result: Names, pairing: Pairing) -> None:
        """Fill in what the task calls each tensor, and what is missing then."""
        candidates = pairing.candidates
        result.own = {name: own[0] for name, own in candidates.items() if len(own) == 1}
        result.double |= {name: own for name, own in candidates.items() if len(own) > 1 and not self.excluded(name)}
        stored = {first: next((n for n in group if n in result.own), None) for first, group in self.groups.items()}
        for name in self.needed:
            other = stored.get(self.base.aliases.get(name, name))
            if name not in result.own and other is not None:  # saving dropped this one of the tied names
                result.own[name] = result.own[other]
        lacking = [name for name in self.needed if name not in result.own]
        result.kept = {name for name in lacking if is_buffer(self.base.tensors[name])}
        lacking = [name for name in lacking if name not in result.kept and name not in result.double]
        twins = self._twins(lacking, result.own)
        result.own |= {name: result.own[of] for name, of in twins.items()}
        self.twins = twins
        result.missing = [name for name in lacking if name not in twins]

    def _twins(self, lacking: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
        """The copies of tensors in the base that the task does not store again."""
        kept = [name for name in own if self.base.tensors[name].dtype.family == "float"] if lacking else []
        return self.sameness.copies(self.base, lacking, kept) if kept else {}

    def _explain_the_rest(self, result: Names, pairing: Pairing) -> None:
        """What only the task has: copies, buffers and heads are left out with a note, all else is foreign."""
        task = self.task
        taken = {task.aliases.get(own, own) for own in chain(result.own.values(), *result.double.values())}
        extra = {
            name: pairing.task[name]
            for name in task.tensors
            if task.aliases.get(name, name) not in taken
            and not self.excluded(name)
            and not self.excluded(pairing.task[name])
        }
        firsts = {result.own[name]: name for name in reversed(self.needed) if name in result.own}
        floats = [name for name in extra if task.tensors[name].dtype.family == "float"]
        copies = self.sameness.copies(task, floats, list(firsts)) if floats and firsts else {}
        result.notes += [
            (f"{name!r}, which the base does not name, is a copy of {firsts[of]!r}", ONE_TENSOR)
            for name, of in copies.items()
        ]
        result.notes += [
            (f"{name!r}, a copy of {of!r} in the base, is lacking", ONE_TENSOR) for name, of in self.twins.items()
        ]
        rest = {name: key for name, key in extra.items() if name not in copies}
        buffers = {name: None for name in rest if is_buffer(task.tensors[name])}
        weights = {name: key for name, key in rest.items() if name not in buffers}
        # A head is known by where its name leaves those of the trunk, with the prefixes taken off and without.
        of_trunk = (
            (pairing.base[name], pairing.task[own], self.plain[1].get(own, own)) for name, own in result.own.items()
        )
        trunk = branches(chain.from_iterable(of_trunk)) if weights else ()
        heads = [name for name, key in weights.items() if result.own and is_head(key, trunk)]
        for what, some in (("buffer", buffers), ("head tensor", heads)):
            if some:
                result.notes.append((f"left out, for the base has none: {_counted(what, list(some))}", "."))
        if result.kept:
            result.notes.append((f"kept as the base has them: {_counted('buffer', sorted(result.kept))} lacking", "."))
        gone = set(heads)
        result.foreign = {name: key for name, key in weights.items() if name not in gone}

    # How names are compared where they differ

    def _search(self, result: Names) -> Pairing | None:
        """The pairing that gives most tensors a name; None where none gives more than their own names. Two that give
        different ones are doubtful: both are put into `result.double`.
        """
        own = {name: key for name, key in self.called.items() if not self.excluded(key) and not self.excluded(name)}
        left_out = {name: key for name, key in self.called.items() if name not in own}
        plain = plain_names(own.values())
        self.plain = plain_names(self.base.tensors), {name: plain[key] for name, key in own.items()}
        best = Pairing(*self.plain)
        for _ in range(ROUNDS):
            covered = self._covered(best)
            lacking = [name for name in self.needed if name not in covered]
            if not lacking:
                break
            tried = [(best.after(steps), steps) for steps in self._options(best, lacking)]
            tried = [(one, len(self._covered(one))) for one, steps in tried if len(steps) == 1 or self._complete(one)]
            most = max((count for _, count in tried), default=0)
            if most <= len(covered):
                break
            winners = [one for one, count in tried if count == most]
            best = winners[0]
            doubtful = _doubtful(winners)
            if doubtful:
                result.double |= {name: names for name, names in doubtful.items() if not self.excluded(name)}
                break
        if len(self._covered(best)) <= len(self.needed) - len(result.missing):
            return None
        return Pairing(best.base, {**left_out, **best.task}, best.steps)

    def _notes(self, pairing: Pairing, own: Mapping[str, str]) -> list[tuple[str, str]]:
        """How the names were compared."""
        notes: list[tuple[str, str]] = []
        of_task = {run: None for name in own.values() for run in wrappers_in(name)}
        of_base = {run: None for name in own for run in wrappers_in(name)}
        for mine, other, what in ((of_task, of_base, "left out of"), (of_base, of_task, "put into")):
            runs = [run for run in mine if run not in other]
            if runs:
                notes.append((f"the wrapper {quoted(runs, SHOWN)} is {what} the tensor names", "."))
        for step in pairing.steps:
            place = "inside" if step.anywhere else "in front of"
            if step.of_base:
                notes.append((f"{step.run!r} is added {place} the tensor names", "."))
            else:
                notes.append((f"{step.run!r} {place} the tensor names is left out", "."))
        base, task = self.plain
        renamed = [
            (name, called)
            for name, called in own.items()
            if (base[name] != without_wrappers(name))
            != (task.get(called, "") not in ("", without_wrappers(self.called[called])))
        ]
        if renamed:
            name, called = renamed[0]
            more = f" ({len(renamed)} such names)" if len(renamed) > 1 else ""
            notes.append((f"{called!r} is read as {name!r}, its name in another version of the library,", f"{more}."))
        return notes

    def _covered(self, pairing: Pairing) -> set[str]:
        return set(self.needed) & pairing.candidates.keys()

    def _complete(self, pairing: Pairing) -> bool:
        """Whether each tensor has a name but for copies, which the task may lack."""
        covered = self._covered(pairing)
        lacking = [name for name in self.needed if name not in covered]
        if len(lacking) > len(covered):
            return False
        return len(self.sameness.copies(self.base, lacking, list(covered))) == len(lacking)

    def _options(self, pairing: Pairing, lacking: Sequence[str]) -> list[tuple[Step, ...]]:
        """Steps that would give one of the names `lacking` a tensor of its shape, those that help most names first."""
        used = set(chain.from_iterable(pairing.candidates.values()))
        free: dict[tuple[tuple[int, ...], str], list[list[str]]] = {}
        for name, key in pairing.task.items():
            if name not in used:
                end = key.rpartition(".")[2]
                free.setdefault((self.task.tensors[name].shape, end), []).append(key.split("."))
        votes: Counter[tuple[Step, ...]] = Counter()
        for name in lacking[:: max(1, len(lacking) // PROBES)]:
            key = pairing.base[name]
            others = free.get((self.base.tensors[name].shape, key.rpartition(".")[2]), [])
            votes.update(list(dict.fromkeys(_steps(key.split("."), others))))
        likely = sorted(votes.items(), key=lambda vote: (len(vote[0]), -vote[1]))
        return [steps for steps, _ in likely if not used or not _risky(steps)][:OPTIONS]


def _steps(wanted: Sequence[str], others: Sequence[Sequence[str]]) -> Iterable[tuple[Step, ...]]:
    """What makes one of the names `others` the one that is wanted. All are cut at the dots."""
    ends = [_common(reversed(wanted), reversed(other)) for other in others]
    longest = max(ends, default=0)
    replaced = 0
    for other, end in zip(others, ends, strict=True):
        more, less, of_base = (other, wanted, False) if len(other) > len(wanted) else (wanted, other, True)
        start = _common(wanted, other)
        if len(more) == len(less) or start + end < len(less):
            if 1 < end == longest < len(less) and replaced < OPTIONS:  # one prefix in the place of another
                replaced += 1
                yield tuple(Step(side, _run(names[:-end]), False) for side, names in ((False, other), (True, wanted)))
        elif end == len(less):
            yield (Step(of_base, _run(more[:-end]), False),)
        else:
            start = len(less) - end
            yield (Step(of_base, _run(more[start : len(more) - end]), True),)


def _risky(steps: Sequence[Step]) -> bool:
    """Whether steps are taken only where no name matches without them: where some do, one numbered layer, or one module
    in the place of another, would be taken for a third.
    """
    return len(steps) > 1 or any(module.isdigit() for step in steps for module in step.run.split("."))


def _run(modules: Sequence[str]) -> str:
    return "".join(f"{module}." for module in modules)


def _common(some: Iterable[str], others: Iterable[str]) -> int:
    """How many first ones are equal."""
    count = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        count += 1
    return count


def _doubtful(winners: Sequence[Pairing]) -> dict[str, list[str]]:
    """The base's names for which equally good pairings have different tensors."""
    first, *others = (pairing.candidates for pairing in winners)
    return {
        name: sorted({*own, *other[name]})
        for other in others
        for name, own in first.items()
        if name in other and other[name] != own
    }


def told(matched: Sequence[Names]) -> list[str]:
    """The notes of all tasks, each once with the tasks that it is about."""
    whose: dict[tuple[str, str], list[str]] = {}
    for names in matched:
        for note in names.notes:
            whose.setdefault(note, []).append(f"task {names.who!r}")
    return [f"{before} in {', '.join(tasks)}{behind}" for (before, behind), tasks in whose.items()]


def excluder(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether one of the patterns matches a whole name."""
    several = [translate(pattern) for pattern in patterns]
    expression = re.compile("|".join(several)) if several else None
    return lambda name: expression is not None and expression.match(name) is not None


def _counted(what: str, names: Sequence[str]) -> str:
    return f"{counted(len(names), what)} ({quoted(names, SHOWN)})"


def _alike(base: Checkpoint, name: str, task: Checkpoint, own: str) -> bool:
    one, other = base.tensors[name], task.tensors[own]
    if one.shape != other.shape:
        return False
    return one.dtype.family == other.dtype.family or same_values(base, name, task, own)
