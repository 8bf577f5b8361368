"""Images that cannot be read: all of them, before the first task is trained on.

A damaged file would end a run where it is first read, which may be days after the start. Every image is decoded once,
in as many threads as there are cores: a header alone does not show that a file was cut short. Cost: one reading and
decoding of each image (3 ms for a photo, on one core); a few images in memory. Not here: texts, which are read whole
when they are opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from prefmerge.data.examples import Examples, Taken
from prefmerge.data.rows import Rows, shown
from prefmerge.errors import DataError
from prefmerge.ground.words import counted, listed

_AT_ONCE = 8  # images that a thread reads together
_SHOWN = 10  # images that a message lists


def unreadable(samples: Rows | Examples) -> dict[str, str]:
    """What is wrong with each image that cannot be read, by the id of the sample."""

    def look(at: range) -> list[tuple[str, str]]:
        try:
            samples.read(at)
        except DataError as error:
            if len(at) == 1:
                return [(samples.ids[at[0]], str(error))]
            return [bad for i in at for bad in look(range(i, i + 1))]
        return []

    parts = [range(start, min(start + _AT_ONCE, len(samples))) for start in range(0, len(samples), _AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(bad for several in pool.map(look, parts) for bad in several)


def require_readable(splits: Iterable[Examples], where: str) -> None:
    """Raise DataError listing the images that cannot be read."""
    bad: dict[str, str] = {}
    count = 0
    for examples in splits:
        bad |= unreadable(examples)
        count += len(examples)
    if not bad:
        return
    if len(bad) == 1:
        reason = next(iter(bad.values())).removesuffix(" Replace or remove it.")
    else:
        names = listed(bad, _SHOWN, form=shown)
        reason = f"{len(bad)} of {counted(count, 'image')} of {where} cannot be read: {names}."
    raise DataError(
        f"{reason} Replace or remove what is damaged, or leave it out: `data: {{name: …, skip: unreadable}}`."
    )


def without(rows: Rows, ids: Collection[str]) -> Rows:
    """The rows but for the samples with these ids."""
    if not ids:
        return rows
    lost = set(ids)
    kept = np.array([i for i, name in enumerate(rows.ids) if name not in lost], np.int64)
    if len(kept) == len(rows):
        return rows
    if not len(kept):
        raise DataError(f"{rows.where}: no sample is left, for `skip` lists all of them.")
    return replace(
        rows,
        ids=tuple(rows.ids[i] for i in kept),
        labels=tuple(rows.labels[i] for i in kept),  # pyright: ignore[reportArgumentType]  (names, or integers)
        read=Taken(rows.read, kept),
        fingerprint=Taken(rows.fingerprint, kept),
        domains=None if rows.domains is None else tuple(rows.domains[i] for i in kept),
        files=None if rows.files is None else tuple(rows.files[i] for i in kept),
    )
