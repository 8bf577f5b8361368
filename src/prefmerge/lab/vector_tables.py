"""The numbers behind the figures of task vectors in the report of an experiment, as tables.

    behind(sets) -> {"sign_conflicts": tables, "magnitudes": ..., "distributions": ..., "cosine": ...}

By the figure's name, in the order of its panels; a set of task vectors is called after its label where there are two.
A dash is what could not be measured. Cost: that of the text. Not here: measuring and drawing (`prefmerge.analysis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from prefmerge.analysis import Measured
from prefmerge.analysis.figures import cell_shares, drawn_cells
from prefmerge.lab.table import Table, Value
from prefmerge.lab.table_parts import MISSING, made_table

KEPT = ("all that changed", "top 20 %")  # the densities of `Measured.signs`


def behind(sets: Sequence[Measured]) -> dict[str, tuple[Table, ...]]:
    """Every table, by the figure that it stands behind."""
    if not sets:
        return {}
    return {
        "sign_conflicts": tuple(_sign_conflicts(sets)),
        "magnitudes": tuple(_magnitudes(sets)),
        "distributions": tuple(_distributions(sets)),
        "cosine": tuple(_cosine(sets)),
    }


def _table(name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Table:
    texts = [list(map(Value, row)) for row in rows]
    return made_table(f"figure-{name}", f"Behind the figure: {caption}", header, texts, [], words)


def _matrix(name: str, caption: str, one: Measured, values_TT: np.ndarray, shown: Callable[[float], str]) -> Table:
    rows = ([task, *map(shown, values.tolist())] for task, values in zip(one.tasks, values_TT, strict=True))
    return _table(name, caption, ["task", *one.tasks], rows)


def _sign_conflicts(sets: Sequence[Measured]) -> Iterable[Table]:
    columns = [f"{one.label}, {kept}" for one in sets for kept in KEPT]
    shares = [signs.share() for one in sets for signs in one.signs]
    most = max(map(len, shares))
    rows = [
        [f"first {t + 1}", *(_percent(share[t]) if t < len(share) else MISSING for share in shares)]
        for t in range(most)
    ]
    what = "elements in conflict, % of those that at least two tasks keep"
    yield _table("sign-conflicts", f"{what}, as tasks are added", ["tasks", *columns], rows)
    for i, one in enumerate(sets):
        caption = f"{one.label}: signs that differ, % of what both changed"
        yield _matrix(f"signs-{i}", caption, one, one.signs[0].pairs(), _percent)
    of_layer = [{part.name: part for part in one.by("layer")} for one in sets]
    names = list(of_layer[0])
    by_layer = [
        [
            name,
            *(
                _percent(p[name].conflict_share(d)) if name in p else MISSING
                for p in of_layer
                for d in range(len(KEPT))
            ),
        ]
        for name in names
    ]
    yield _table("signs-by-layer", f"{what}, after all tasks", ["layer", *columns], by_layer)


def _magnitudes(sets: Sequence[Measured]) -> Iterable[Table]:
    for i, one in enumerate(sets):
        by_type = [
            [part.name, what, *map(_number, values)]
            for part in one.by("type")
            if part.merged[-1] > 0
            for what, values in (
                ("the merge of the tasks up to it", part.mean_merged().tolist()),
                ("the task alone", part.mean_magnitudes().tolist()),
            )
        ]
        caption = f"{one.label}: mean size of a change by layer type, after each task"
        yield _table(f"magnitudes-{i}", caption, ["layer type", "of", *one.tasks], by_type, 2)
        blocks = [[part.name, *map(_number, part.mean_merged().tolist())] for part in one.by("block")]
        if blocks:
            caption = f"{one.label}: mean size of a change in the merge by block, after each task"
            yield _table(f"magnitudes-by-block-{i}", caption, ["block", *one.tasks], blocks)


def _distributions(sets: Sequence[Measured]) -> Iterable[Table]:
    cells = drawn_cells(sets)
    middles = [_number(value) for value in ((cells[:-1] + cells[1:]) / 2).tolist()]
    for i, one in enumerate(sets):
        for name, spreads, what in (
            ("values", one.values, "values of the task vectors"),
            ("taken", one.contributed, "what the merge takes of them"),
        ):
            shares = [cell_shares(spread, cells, one.elements).tolist() for spread in spreads]
            rows = [[at, *(_number(100 * value) for value in row)] for at, *row in zip(middles, *shares, strict=True)]
            caption = f"{one.label}: {what}, % of the elements around each value"
            yield _table(f"{name}-{i}", caption, ["value", *one.tasks], rows, 0)
        rows = [[task, _percent(share)] for task, share in zip(one.tasks, one.contributions().tolist(), strict=True)]
        rows.append(["several tasks alike", _percent(one.tied())])
        yield _table(f"contributions-{i}", f"{one.label}: contribution, % of the changed elements", ["task", "%"], rows)


def _cosine(sets: Sequence[Measured]) -> Iterable[Table]:
    for i, one in enumerate(sets):
        yield _matrix(f"cosines-{i}", f"{one.label}: cosines of task vectors", one, one.cosines(), _cosine_text)
        columns = {"task vector": one.norms()}
        if one.training != "independent":
            yield _matrix(
                f"cosines-of-steps-{i}", f"{one.label}: cosines of steps", one, one.step_cosines(), _cosine_text
            )
            columns["step"] = one.step_norms()
        rows = [[task, *map(_number, values)] for task, *values in zip(one.tasks, *columns.values(), strict=True)]
        yield _table(f"norms-{i}", f"{one.label}: Euclidean norms", ["task", *columns], rows)


def _percent(value: float) -> str:
    return MISSING if value != value else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return MISSING if value != value else f"{value:.3g}"


def _cosine_text(value: float) -> str:
    return MISSING if value != value else f"{round(value, 3) + 0.0:.3f}"  # no -0.000
