"""One message about checkpoints whose tensors do not match the base's: both sides, and the flags that help.

Names without a partner are shown beside the nearest of the other side with the same shape. The flags are tried before
they are shown: with them the same match has nothing to complain of. None are shown for tensors that are only parts of a
weight. A message has at most `MOST` characters.
Cost: a few matches more, and comparisons of a few hundred names. Not here: how names are matched (`matching`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from prefmerge.checkpoints import Checkpoint
from prefmerge.checkpoints.rearranged import original
from prefmerge.errors import PrefmergeError
from prefmerge.ground.words import counted, listed, quoted
from prefmerge.merging.known_names import branches, is_of_adapter, is_part_of_weight
from prefmerge.merging.layers import layer_of, stacks
from prefmerge.merging.matching import Names, excluder
from prefmerge.merging.parameters import EXCLUDE, RENAME, rename_rule
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.rows import of_vocabulary
from prefmerge.merging.stacks import Stack
from prefmerge.merging.vocabularies import ROWS_FROM, TOKENIZER

MOST = 1500  # characters of a message
SHOWN = 5  # names listed in it
NAME = 72  # characters of a name that is shown
FLAGS = 8  # of a remedy
COMPARED = 200  # names without a partner that renames are looked for with

Again = Callable[[Recipe], list[Names]]
Change = tuple[str, str]  # from these modules to those, joined by dots


def explained(
    recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], matched: Sequence[Names], again: Again
) -> str:
    """The message. `again`: the match with another recipe."""
    wrong = [(task, names) for task, names in zip(tasks, matched, strict=True) if names.wrong]
    renames = {names.who: _renames(base, task, names) for task, names in wrong}
    suggested = list(dict.fromkeys(rule for rules in renames.values() for rule in rules))
    first = _layers(base, wrong) or _parts(wrong) or _shifted(base, wrong)
    remedy = first or [_remedy(recipe, base, tasks, suggested, again)]
    message = ""
    for shown in range(SHOWN, 0, -1):
        facts = [fact for task, names in wrong[:2] for fact in _facts(base, task, names, renames[names.who], shown)]
        if len(wrong) > 2:
            facts.append(f"It is alike in {quoted((_short(names.who) for _, names in wrong[2:]), 2)}.")
        message = " ".join([*facts, *_vocabularies(base, wrong), *remedy]).replace("\n ", "\n").replace("\t", "  ")
        if len(message) <= MOST:
            break
    return _cut(message, MOST)


def _facts(base: Checkpoint, task: Checkpoint, names: Names, renames: Sequence[str], shown: int) -> list[str]:
    """What is wrong with one task, a sentence each."""
    where, facts = _cut(names.where, 2 * NAME), []
    lacks = f"lacks {len(names.missing)} of the base's tensors"
    has = f"has {len(names.foreign)} tensors that the base lacks"
    if names.missing and names.foreign:
        facts.append(f"{where} {lacks} and {has}:{_side_by_side(base, task, names, renames, shown)}")
    elif names.missing:
        facts.append(f"{where} {lacks}: {_quoted(names.missing, shown)}.")
    elif names.foreign:
        facts.append(f"{where} {has}: {_quoted(list(names.foreign), shown)}.")
    for name, own in list(names.double.items())[:1]:
        more = f", and so it is with {counted(len(names.double) - 1, 'more tensor')}" if len(names.double) > 1 else ""
        facts.append(f"{where} has {len(own)} tensors for the base's {_short(name)!r}: {_quoted(own, shown)}{more}.")
    if names.unlike:
        several = f"{len(names.unlike)} tensors are not like the base's: " if len(names.unlike) > 1 else ""
        kinds = [_unlike(base, task, name, names.own[name]) for name in names.unlike]
        facts.append(f"{where}: {several}{listed(kinds, shown, separator='; ')}.")
    return facts


def _vocabularies(base: Checkpoint, wrong: Sequence[tuple[Checkpoint, Names]]) -> list[str]:
    """What to do where models have other numbers of tokens, a sentence."""
    of_tokens = set(of_vocabulary(base.tensors)[0])
    pairs = [(name, task.tensors[own.own[name]].shape) for task, own in wrong for name in own.unlike]
    sizes = [name for name, shape in pairs if name in of_tokens and shape[1:] == base.tensors[name].shape[1:]]
    if not sizes:
        return []
    return [
        f"Their vocabularies differ: give {TOKENIZER.spelled} union (or base, or the name of a task) to merge the rows "
        f"of one token with one another, or {ROWS_FROM.spelled} base (or a task) to merge the rows that all have."
    ]


def _layers(base: Checkpoint, wrong: Sequence[tuple[Checkpoint, Names]]) -> list[str]:
    """What to do where all that is wrong is that a stack has another number of layers, a sentence each."""
    if not any(isinstance(original(one), Stack) for one in (base, *(task for task, _ in wrong))):
        return []  # to leave a few layers out of whole models may be what is meant
    own, told = stacks(base.tensors), list[str]()
    for task, names in wrong:
        counts = stacks(task.tensors)
        if counts.keys() != own.keys() or counts == own or names.double or names.unlike:
            return []
        alone = {name: layer for name in (*names.missing, *names.foreign) if (layer := layer_of(name))}
        shared = {stack: min(own[stack], counts[stack]) for stack in own}
        others = [name for name in (*names.missing, *names.foreign) if name not in alone]
        if others or any(layer.number < shared[layer.stack] for layer in alone.values()):
            return []
        told += [
            f"{_short(stack)} has {counted(count, 'layer')} in {_short(names.who)}, and {own[stack]} in the base."
            for stack, count in counts.items()
            if count != own[stack]
        ]
    return [*told[:2], "Give models of as many layers: the base can be a stack too, such as BASE[0:8]|BASE[4:12]."]


def _parts(wrong: Sequence[tuple[Checkpoint, Names]]) -> list[str]:
    """What to do where tensors that do not match are only parts of a weight, a sentence: a name that could be given to
    one of them, or a pattern that leaves them out, would make another model.
    """
    alone = [name for _, names in wrong for name in (*names.foreign, *names.missing)]
    alone += [own for _, names in wrong for several in names.double.values() for own in several]
    adapters, computed = ([name for name in alone if test(name)] for test in (is_of_adapter, is_part_of_weight))
    told: list[str] = []
    if adapters:
        told.append(
            f"{_short(adapters[0])!r} is a part of an adapter, without which the weights beside it are not what was "
            "trained. Put it into the weights and save them (merge_and_unload() of PEFT), or save the adapter alone "
            "(save_pretrained) and give its folder."
        )
    if computed:
        told.append(
            f"{_short(computed[0])!r} is a part of a weight, which torch computes from several tensors. Save the "
            "weights themselves: after torch.nn.utils.parametrize.remove_parametrizations, prune.remove, "
            "remove_weight_norm or remove_spectral_norm."
        )
    return told


def _shifted(base: Checkpoint, wrong: Sequence[tuple[Checkpoint, Names]]) -> list[str]:
    """What to do where a task numbers its layers from another number than the base: what is left of a stack when those
    without a partner are left out would be merged with its neighbours.
    """
    own = _first_layers(base.tensors)
    for task, names in wrong:
        alone = {layer.stack for name in (*names.missing, *names.foreign) if (layer := layer_of(name))}
        for stack, first in _first_layers(task.tensors).items():
            if stack in alone and first != own.get(stack, first):
                return [
                    f"The layers of {_short(stack)!r} have numbers from {first} in {_short(names.who)!r}, and from "
                    f"{own[stack]} in the base, so one number may stand for two layers. Save them with the same "
                    "numbers first."
                ]
    return []


def _first_layers(tensors: Iterable[str]) -> dict[str, int]:
    first: dict[str, int] = {}
    for name in tensors:
        if layer := layer_of(name):
            first[layer.stack] = min(layer.number, first.get(layer.stack, layer.number))
    return first


def _unlike(base: Checkpoint, task: Checkpoint, name: str, own: str) -> str:
    one, other = base.tensors[name], task.tensors[own]
    if one.shape != other.shape:
        return f"tensor {_short(name)!r} has shape {other.shape}, the base has {one.shape}"
    return f"tensor {_short(name)!r} is {other.dtype.name}, the base has {one.dtype.name}"


def _side_by_side(base: Checkpoint, task: Checkpoint, names: Names, renames: Sequence[str], shown: int) -> str:
    """Names of the base without a partner, each with the task's that `renames` make it, or the nearest."""
    named = {_after(renames, key): own for own, key in names.foreign.items()}
    rows, used = [("the base's", "the task's")], {named[name] for name in names.missing if name in named}
    for name in names.missing[:shown]:
        free = [own for own in names.foreign if own not in used]
        shape = base.tensors[name].shape
        like = [own for own in free if task.tensors[own].shape == shape][:COMPARED]
        near = named.get(name) or max(like, key=lambda own: SequenceMatcher(None, name, own).ratio(), default=None)
        used.add(near or "")
        rows.append((_short(name), _short(near) if near else "none of its shape"))
    wide = max(len(left) for left, _ in rows)
    rest = len(names.missing) - shown
    more = f"\n\tand {rest} more" if rest > 0 else ""
    return "".join(f"\n\t{left:{wide}}  {right}" for left, right in rows) + more + "\n"


def _after(renames: Sequence[str], name: str) -> str:
    for old, new in map(rename_rule, renames):
        name = old.sub(new, name)
    return name


# The flags that help


def _remedy(
    recipe: Recipe, base: Checkpoint, tasks: Sequence[Checkpoint], suggested: Sequence[str], again: Again
) -> str:
    """The last sentences: flags with which every task matches, or that there are none."""
    for new in [suggested, []] if suggested else [[]]:
        try:
            renamed = recipe.with_overrides(rename=[*recipe[RENAME], *new])
            for patterns in _patterns(base, tasks, again(renamed)):
                changed = renamed.with_overrides(exclude=[*recipe[EXCLUDE], *patterns])
                if len(new) + len(patterns) <= FLAGS and not any(names.wrong for names in again(changed)):
                    merged = _merged(base, changed)
                    if merged:
                        return _said(base, recipe, changed, merged)
        except PrefmergeError:  # a rename that gives two tensors one name, for instance
            continue
    return "Merge checkpoints of one architecture: no few --rename and --exclude would make these match."


def _said(base: Checkpoint, recipe: Recipe, changed: Recipe, merged: int) -> str:
    flags = [f"--rename {_typed(rule)}" for rule in changed[RENAME]]
    flags += [f"--exclude {_typed(pattern)}" for pattern in changed[EXCLUDE]]
    instead = " (in the place of those given)" if recipe[RENAME] or recipe[EXCLUDE] else ""
    floats = sum(info.dtype.family == "float" for info in base.tensors.values())
    copied = " What is excluded is the base's." if changed[EXCLUDE] else ""
    return (
        f"Merge checkpoints of one architecture, or add{instead}: {' '.join(flags)} - then {merged} of the base's "
        f"{counted(floats, 'tensor')} are merged.{copied}"
    )


def _typed(text: str) -> str:
    """As a shell takes it."""
    return "'" + text.replace("'", "'\\''") + "'"


def _merged(base: Checkpoint, recipe: Recipe) -> int:
    excluded = excluder(recipe[EXCLUDE])
    return sum(info.dtype.family == "float" and not excluded(name) for name, info in base.tensors.items())


def _patterns(base: Checkpoint, tasks: Sequence[Checkpoint], matched: Sequence[Names]) -> Iterator[list[str]]:
    """Lists of patterns, one of which leaves out what is wrong and nothing else. Where two of a task's tensors could
    be one of the base's, there is a list for each choice.
    """
    of_base = {name for names in matched for name in (*names.missing, *names.unlike)}
    choices = max((len(own) for names in matched for own in names.double.values()), default=1)
    for choice in range(choices):
        gone, kept = set(of_base), {name for name in base.tensors if name not in of_base}
        for names in matched:
            doubtful = {own for several in names.double.values() for own in several}
            chosen = {sorted(several)[min(choice, len(several) - 1)] for several in names.double.values()}
            gone |= {*names.foreign, *(doubtful - chosen)}
            kept |= {own for own in names.own.values() if own not in doubtful and own not in of_base} | chosen
        yield _shortest(sorted(gone), kept - gone)


def _shortest(gone: Sequence[str], kept: Collection[str]) -> list[str]:
    """Patterns that match every name of `gone` and none of `kept`: of whole modules, of all numbered ones."""
    modules = branches(kept)
    rough: Counter[str] = Counter()
    exact: dict[str, str] = {}
    for name in gone:
        parts = name.split(".")
        depths = (depth for depth in range(1, len(parts)) if ".".join(parts[:depth]) not in modules)
        depth = next(depths, None)
        plain = re.sub(r"[\[*?]", r"[\g<0>]", name if depth is None else ".".join(parts[:depth]))
        exact[name] = plain if depth is None else f"{plain}.*"
    for pattern in dict.fromkeys(exact.values()):
        rough[_any_number(pattern)] += 1
    safe = {pattern for pattern, count in rough.items() if count > 1 and not any(map(excluder([pattern]), kept))}
    shown = (pattern if _any_number(pattern) not in safe else _any_number(pattern) for pattern in exact.values())
    return list(dict.fromkeys(shown))


def _any_number(pattern: str) -> str:
    return re.sub(r"\d+", "*", pattern)


def _renames(base: Checkpoint, task: Checkpoint, names: Names) -> list[str]:
    """Expressions that give names without a partner one of the same shape, those that do so for most names first."""
    lacking = names.missing[:: max(1, len(names.missing) // COMPARED)][:COMPARED]
    left = dict(names.foreign)
    rules: list[str] = []
    while lacking and left and len(rules) < FLAGS:
        free: dict[tuple[int, ...], list[str]] = {}
        for own, key in left.items():
            free.setdefault(task.tensors[own].shape, []).append(key)
        votes: Counter[Change] = Counter()
        for name in lacking:
            likely = free.get(base.tensors[name].shape, [])[:COMPARED]
            votes.update({rule for key in likely if (rule := _difference(key, name)) is not None})
        if not votes:
            break
        old, new = max(votes, key=lambda rule: (votes[rule], SequenceMatcher(None, *rule).ratio()))
        rule = rf"\b{re.escape(old)}\b={new}" if new else rf"\b{re.escape(old)}\.="
        expression, by = rename_rule(rule)
        left = {own: expression.sub(by, key) for own, key in left.items()}
        reached = set(left.values())
        rest = [name for name in lacking if name not in reached]
        if len(rest) == len(lacking):
            break
        rules.append(rule)
        lacking, left = rest, {own: key for own, key in left.items() if key not in base.tensors}
    return rules


def _difference(called: str, wanted: str) -> Change | None:
    """The modules that differ between two names, if these have others in common. Numbers must be the same."""
    own, other = called.split("."), wanted.split(".")
    start = 0
    while start < min(len(own), len(other)) and own[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(own), len(other)) - start and own[-1 - end] == other[-1 - end]:
        end += 1
    old, new = own[start : len(own) - end], other[start : len(other) - end]
    if start + end == 0 or any(module.isdigit() for module in (*old, *new)):
        return None
    if not old:  # something is put between: say what it is put behind, or before
        beside = own[start - 1] if start else own[0]
        old, new = [beside], [beside, *new] if start else [*new, beside]
    return ".".join(old), ".".join(new)


# Bounded texts


def _short(name: str) -> str:
    """A name of bounded length: what is in the middle of a long one is left out."""
    half = NAME // 2 - 2
    return name if len(name) <= NAME else f"{name[:half]}...{name[-half:]}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _quoted(names: Sequence[str], shown: int) -> str:
    return quoted(map(_short, names), shown)
