"""The order in which classes and domains are learned: the papers', the data set's, a seeded one, or a list of names.

Published orders are positions in a registered data set's classes; they are applied by name where the names are those,
else by position. Domains without a published order keep the data set's. Cost: none to speak of. Not here: which classes
make a task (`scenarios`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prefmerge.data.examples import Corpus
from prefmerge.data.labels import finder, folded
from prefmerge.data.registry import CLASS_ORDERS, REGISTRY, registered
from prefmerge.errors import ConfigError
from prefmerge.ground.draws import keyed
from prefmerge.ground.words import did_you_mean, quoted

if TYPE_CHECKING:
    from prefmerge.config import FinetuneConfig

_SHOWN = 5  # names that a message lists


def order_of_classes(config: FinetuneConfig, corpus: Corpus) -> list[int]:
    """Positions of the classes in the order in which they are learned."""
    asked, count = config.scenario.class_order, len(corpus.classes)
    known = registered(config.data[0].name)
    if asked == "auto":
        asked = known.class_order if known is not None and count == len(known.classes) else "natural"
    if asked == "natural":
        return list(range(count))
    if asked == "random":
        return sorted(range(count), key=lambda c: keyed("class order", config.seed, corpus.classes[c]))
    if not isinstance(asked, str):
        return _permutation(asked, corpus.classes, "scenario.class_order", f"classes of {corpus.name!r}")
    if asked not in CLASS_ORDERS:
        raise ConfigError(
            f"scenario.class_order: {asked!r} is not known. Use auto, natural, random, {', '.join(CLASS_ORDERS)}, or a "
            "list of class names."
        )
    order = CLASS_ORDERS[asked]
    if len(order.positions) != count:
        raise ConfigError(
            f"scenario.class_order: {asked!r} orders the {len(order.positions)} classes of {order.source}, and "
            f"{corpus.name!r} has {count}. Use natural, random, or a list of class names."
        )
    # Of the data set that it was published for, by name; of another (CUB-200 takes ImageNet-R's), by position.
    at = {folded(name): i for i, name in enumerate(corpus.classes)}
    published = [folded(name) for name in REGISTRY[order.source].classes]
    if at.keys() == set(published):
        return [at[published[position]] for position in order.positions]
    return list(order.positions)


def classes_of_tasks(tasks: Mapping[str, Sequence[str]], corpus: Corpus) -> list[list[int]]:
    """Positions of the classes of each task that is given by name. Raises ConfigError for a class that the data lack,
    and for one that stands twice.
    """
    find = finder(corpus.classes)
    first: dict[int, str] = {}
    result = []
    for task, names in tasks.items():
        own: list[int] = []
        for name in names:
            at = find(name)
            if at is None:
                raise ConfigError(
                    f"scenario.tasks: {task!r} has a class {name!r}, which {corpus.name!r} lacks."
                    f"{did_you_mean(name, corpus.classes)} Its classes are {quoted(corpus.classes, _SHOWN)}."
                )
            if at in first:
                where = f"in {task!r}" if first[at] == task else f"in {first[at]!r} and in {task!r}"
                raise ConfigError(
                    f"scenario.tasks: the class {name!r} stands twice, {where}. A class is learned in one task."
                )
            first[at] = task
            own.append(at)
        result.append(own)
    return result


def order_of_domains(config: FinetuneConfig, corpus: Corpus) -> list[str]:
    """The domains in the order in which they are learned."""
    domains = list(dict.fromkeys([*(corpus.train.domains or ()), *(corpus.test.domains or ())]))
    if config.scenario.domain_order is not None:
        what = f"domains of {corpus.name!r}"
        asked = _permutation(config.scenario.domain_order, domains, "scenario.domain_order", what)
        return [domains[i] for i in asked]
    known = registered(config.data[0].name)
    rank = {folded(name): i for i, name in enumerate(known.domain_order if known else ())}
    return sorted(domains, key=lambda name: rank.get(folded(name), len(rank)))


def _permutation(asked: Sequence[str], names: Sequence[str], key: str, what: str) -> list[int]:
    """Positions in `names` of the names asked for: all of them, each once."""
    at = {folded(name) or name: i for i, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
    positions = [at.get(name, at.get(folded(name))) for name in asked]
    counts = Counter(position for position in positions if position is not None)
    twice = next((n for n, p in zip(asked, positions, strict=True) if p is not None and counts[p] > 1), None)
    unknown = [name for name, position in zip(asked, positions, strict=True) if position is None]
    missing = [name for i, name in enumerate(names) if i not in positions]
    if unknown or missing or len(positions) != len(names):
        parts = [f"{', '.join(repr(n) for n in unknown[:5])} not among the {what}"] if unknown else []
        parts += [f"{', '.join(repr(n) for n in missing[:5])} missing"] if missing else []
        parts += [f"{twice!r} occurs twice"] if twice is not None else []
        raise ConfigError(f"{key}: {'; '.join(parts)}. List each of the {len(names)} {what} once.")
    return [position for position in positions if position is not None]
