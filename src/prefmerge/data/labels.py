"""Labels to classes, by name and never by position.

A label's name is looked up in the list of classes: first as written, then folded (letters and digits only, no case:
`sweet_pepper` is `Sweet pepper`), then among the aliases of a registered data set (a WordNet id, `AnnualCrop`).
Integers without names are positions, and only where somebody said of what (`classes`, the registry). Labels out are
(N,) int64. Cost: one look-up per distinct label. Not here: guessing (a name that is near a class is an error).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prefmerge.data.rows import Rows
from prefmerge.errors import DataError
from prefmerge.ground.words import counted, did_you_mean, listed, nearest, quoted

_SHOWN = 5  # names that a message lists
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


def folded(name: str) -> str:
    """Letters and digits of the name, without case."""
    return _NOT_ALPHANUMERIC.sub("", name).casefold()


def classes_of(rows: Sequence[Rows]) -> tuple[str, ...]:
    """The classes of a data set that nobody listed: the names it declares, else those that occur, sorted.

    Raises DataError where labels are bare numbers.
    """
    declared = next((part.names for part in rows if part.names is not None), None)
    if declared is not None:
        return declared
    names = sorted({str(label) for label in rows[0].labels})  # the others say the same, as written or folded
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{rows[0].where}: the labels are numbers ({listed(sorted(names, key=int), _SHOWN)}) and nothing names "
            "them. Give `classes: [name of 0, name of 1, …]`, or the numbers themselves, quoted, where they are the "
            "names."
        )
    return tuple(names)


def mapped(
    rows: Rows, classes: Sequence[str], aliases: Mapping[str, str] | None = None, numbered: bool = True
) -> np.ndarray:
    """Labels (N,) int64 of the rows into `classes`; bare numbers count them where `numbered`.

    Raises DataError naming what is no class, or has no name.
    """
    find = _Finder(classes, aliases or {})
    distinct = list(dict.fromkeys(rows.labels))
    positions = {label: find(str(label)) for label in distinct}
    lost = [str(label) for label, at in positions.items() if at is None]
    bare = all(_is_number(str(label)) for label in (rows.names or distinct))
    if rows.names is not None and not (bare and lost):
        _check_declared(rows, classes, find)
    if lost and bare:
        if not numbered:
            raise DataError(
                f"{rows.where}: the labels are bare numbers, and their order is not that of the registered classes. "
                "Give `classes: [name of 0, name of 1, …]`."
            )
        positions = {label: int(label) for label in distinct}
        beyond = [str(label) for label, at in positions.items() if at >= len(classes)]
        if beyond:
            raise DataError(
                f"{rows.where}: the label {beyond[0]} is beyond the {len(classes)} classes, which are numbered from 0. "
                "Labels and `classes` must belong together."
            )
    elif lost:
        hint = did_you_mean(lost[0], classes)
        sample = next(i for i, label in enumerate(rows.labels) if str(label) == lost[0])
        what, are = ("the label", "is") if len(lost) == 1 else (counted(len(lost), "label"), "are")
        raise DataError(
            f"{rows.where}: {what} {quoted(lost, _SHOWN)} (first at sample {rows.ids[sample]!r}) {are} not "
            f"among the {len(classes)} classes {listed(classes, _SHOWN)}.{hint}"
        )
    return np.asarray([positions[label] for label in rows.labels], dtype=np.int64)


def require_same_classes(train: Rows, test: Rows) -> None:
    """Raise DataError where a class occurs in one of the two alone, naming the class of the other that may be meant.

    For classes that nobody listed: a name that is spelled in two ways would make two of them.
    """
    ours, theirs = (list(dict.fromkeys(map(str, rows.labels))) for rows in (train, test))
    in_train, in_test = finder(ours), finder(theirs)
    alone = [name for name in theirs if in_train(name) is None]
    untested = [name for name in ours if in_test(name) is None]
    if not (alone or untested):
        return
    facts = []
    for names, has, lacks, other in ((alone, "test", "train", untested), (untested, "train", "test", alone)):
        if names:
            what = "class" if len(names) == 1 else "classes"
            near = nearest(names[0], other, fold=True)
            hint = f" (did you mean {near!r} by {names[0]!r}?)" if near is not None and has == "test" else ""
            facts.append(f"{has} has {what} {quoted(names, _SHOWN)}, which {lacks} lacks{hint}")
    raise DataError(
        f"{train.where} and {test.where}: {'; '.join(facts)}. Rename or remove them; or list all classes in "
        "`classes: […]`, if it is meant so."
    )


def finder(classes: Sequence[str]) -> Callable[[str], int | None]:
    """The position of a name in the list of classes, or None."""
    return _Finder(classes, {})


class _Finder:
    """The position of a name in the list of classes, or None."""

    def __init__(self, classes: Sequence[str], aliases: Mapping[str, str]) -> None:
        self._exact = {name: i for i, name in enumerate(classes)}
        # Names that fold alike (C, C++) are only found as written.
        once = Counter(folded(name) for name in classes)
        self._folded = {folded(name): i for i, name in enumerate(classes) if once[folded(name)] == 1 and folded(name)}
        self._aliases = {folded(alias): self._exact[name] for alias, name in aliases.items() if name in self._exact}

    def __call__(self, name: str) -> int | None:
        if name in self._exact:
            return self._exact[name]
        return self._folded.get(folded(name), self._aliases.get(folded(name)))


def _check_declared(rows: Rows, classes: Sequence[str], find: _Finder) -> None:
    """The names that a source declares and the classes expected are the same set."""
    names = rows.names or ()
    positions = [find(name) for name in names]
    unknown = [name for name, at in zip(names, positions, strict=True) if at is None]
    missing = [name for i, name in enumerate(classes) if i not in positions]
    twice = next((classes[at] for at, n in Counter(at for at in positions if at is not None).items() if n > 1), None)
    if unknown or missing:
        parts = [f"lacks {quoted(missing, _SHOWN)}"] if missing else []
        parts += [f"has {quoted(unknown, _SHOWN)}, which is none of them"] if unknown else []
        raise DataError(
            f"{rows.where}: {len(classes)} classes are expected, and the data set declares {len(names)}: it "
            f"{' and '.join(parts)}. Give `classes` with the data set's own names."
        )
    if twice is not None:
        raise DataError(f"{rows.where}: several names that the data set declares mean the class {twice!r}.")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
