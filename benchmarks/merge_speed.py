"""How long does a merge take, and how much memory, next to reading its inputs once and writing its output?

A ViT-B/16 visual tower (86.2 M elements) and T tasks on disk; every method as a whole process (`prefmerge merge`:
start, merge, fsync), with a warm page cache unless it says cold. The yardstick is measured in the same run, before,
between and after the methods. First the results are checked: budgets against exact fractions, and a few tensors
element by element. Writes `results/merge_speed.json`; `--docs` renders it. At T = 20: 7.2 GB of disk, two minutes.
Not here: other tools (`benchmarks.against_mergekit`, whose part of the page stays).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, speed_aims, time_by_kernel, yardstick
from benchmarks.make_checkpoints import LANGUAGE_MODELS, MODELS, encoded, make, shapes_of

OTHERS = (
    common.RESULTS / "merge_speed_billion.json",  # --model qwen2-1b --every-method --tasks 5 --dtype bfloat16
    time_by_kernel.RESULT,
)
TEN = 10  # models of a sweep
STARTS = 5
MANY = 10  # tasks from which on no sweeps are timed, which takes long
CHECKED = ("visual.ln_post.weight", "visual.class_embedding", "visual.proj")
CHECKED_OF_LANGUAGE = ("model.norm.weight", "model.layers.0.self_attn.q_proj.bias")


@dataclass(frozen=True)
class Case:
    """One row: the command line's options, and how it is called in the table. `shares` of T tasks where the result has
    budgets to check.
    """

    name: str
    options: tuple[str, ...]
    cold: bool = False
    tasks: int | None = None  # how many of them are merged; None: all
    vary: str | None = None  # of `prefmerge sweep`, which then takes the place of `prefmerge merge`

    def shares(self, tasks: int) -> list[Fraction] | None:
        if "--prefer" not in self.options:
            return None
        spec = self.options[self.options.index("--prefer") + 1]
        kind, _, rest = spec.partition(":")
        weights = (
            [Fraction(rest) ** (tasks - 1 - t) for t in range(tasks)]
            if kind == "alpha"
            else [Fraction(w) for w in spec.split(",")]
        )
        return [w / sum(weights) for w in weights]


def target_of_two(tasks: int) -> str:
    """0.8 of the first task, 0.2 of the middle one, nothing of the others: what a deployment asks for."""
    wanted = ["0"] * tasks
    wanted[0], wanted[tasks // 2] = "0.8", "0.2"
    return ",".join(wanted)


def cases(tasks: int, cold: bool) -> list[Case]:
    """The rows for T tasks."""
    optimal = ("--method", "tunable-magmax", "--selection", "optimal", "--importance", "step", "--prefer")
    tunable = ("--method", "tunable-magmax", "--selection", "paper", "--importance", "magnitude", "--prefer")
    rows = [
        Case("tunable-magmax, alpha 1", (*tunable, "alpha:1")),
        Case("tunable-magmax, alpha 2", (*tunable, "alpha:2")),
        Case("tunable-magmax, alpha 0.5", (*tunable, "alpha:0.5")),
        Case("tunable-magmax, a target of two tasks", (*tunable, target_of_two(tasks))),
        Case("tunable-magmax, alpha 1, scope model", (*tunable, "alpha:1", "--scope", "model")),
        Case("tunable-magmax, optimal + step, alpha 1", (*optimal, "alpha:1", "--sequential")),
        Case("tunable-magmax, optimal + step, a target of two tasks", (*optimal, target_of_two(tasks), "--sequential")),
        *(Case(method, ("--method", method)) for method in ("magmax", "average", "task-arithmetic", "ties")),
    ]
    ten = [
        Case("magmax, ten scales", ("--method", "magmax"), vary=f"scale={_ten(lambda i: f'{i / 10}')}"),
        Case("ties, ten densities", ("--method", "ties"), vary=f"density={_ten(lambda i: f'{i / 20}')}"),
        Case("tunable-magmax, ten preferences", tunable[:-1], vary=f"prefer={_ten(lambda i: f'alpha:{1 + i / 10}')}"),
    ]
    last = [Case("tunable-magmax, alpha 1, cold cache", (*tunable, "alpha:1"), cold=True)] if cold else []
    return [*rows, *(ten if tasks < MANY else []), *last]


FEW = {"opcm": 2}  # tasks: each from the second on takes a minute of singular vectors


def every_method(tasks: int) -> list[Case]:
    """A row for each method as it is without further words, and the selections of Tunable MAGMAX."""
    from prefmerge.methods import METHODS

    own = {"slerp": ("--t", "0.5")}
    rows = [row for row in cases(tasks, cold=False) if "tunable" in row.name and "alpha" in row.name and not row.vary]
    for name, method in METHODS.items():
        if name == "tunable_magmax":
            continue
        count = min(tasks, FEW.get(name, tasks) if method.most is None else method.most)
        order = ("--sequential",) if name == "increments" else ()
        title = method.name.replace("_", "-") + (f", {count} of the tasks" if count < tasks else "")
        rows.append(Case(title, ("--method", name.replace("_", "-"), *own.get(name, ()), *order), tasks=count))
    return rows


def _ten(value: Callable[[int], str]) -> str:
    return "|".join(value(i) for i in range(1, TEN + 1))


def command(case: Case, base: Path, tasks: Sequence[Path], out: Path) -> list[str]:
    tasks = tasks[: case.tasks]
    if case.vary is not None:
        words = [*common.PREFMERGE, "sweep", str(base), *map(str, tasks), "-o", str(out.with_suffix(""))]
        return [*words, "--force", "--vary", case.vary, *case.options]
    return [*common.PREFMERGE, "merge", str(base), *map(str, tasks), "-o", str(out), "--force", *case.options]


def receipt_of(out: Path) -> dict[str, Any]:
    return json.loads(Path(f"{out}.receipt.json").read_text(encoding="utf-8"))


def check(case: Case, base: Path, tasks: Sequence[Path], out: Path) -> None:
    """AssertionError unless the merge that was just run is right where that is cheap to check."""
    if case.vary is not None:
        made = sorted(out.with_suffix("").rglob("*.safetensors"))
        assert len(made) == TEN, f"{case.name}: {len(made)} models were written"
        return
    receipt = receipt_of(out)
    shares = case.shares(len(tasks))
    if shares is None and case.name != "magmax":
        return
    totals = receipt["totals"]
    assert sum(totals["owned"]) == receipt["elements"]["merged"], f"{case.name}: owners do not add up"
    if shares is not None:
        for name, entry in receipt["tensors"].items():
            if entry["role"] == "merged" and "asked" in entry:
                assert entry["asked"] == entry["owned"] == budgets(shares, sum(entry["owned"])), (
                    f"{case.name}: {name} misses its budgets"
                )
        if "model" in case.options:
            assert totals["owned"] == budgets(shares, sum(totals["owned"])), (
                f"{case.name}: the model misses its budgets"
            )
    scale = np.float32(receipt["recipe"]["scale"])
    checked = CHECKED if CHECKED[0] in receipt["tensors"] else CHECKED_OF_LANGUAGE
    dtype = receipt["tensors"][checked[0]]["dtype"]
    for name in checked:
        start, merged = tensor(base, name).ravel(), tensor(out, name).ravel()
        deltas = [tensor(task, name).ravel() - start for task in tasks]
        whose = np.array([as_stored(start + scale * delta, dtype) == merged for delta in deltas])
        assert whose.any(axis=0).all(), f"{case.name}: {name} has an element that is no task's"
        if case.name == "magmax":
            last_first = np.array(deltas[::-1])  # argmax takes the first of equals; ties go to the later task
            taken = np.take_along_axis(last_first, np.abs(last_first).argmax(axis=0)[None], axis=0)[0]
            assert np.array_equal(merged, as_stored(start + scale * taken, dtype)), f"magmax: {name} is not the argmax"


def budgets(shares: Sequence[Fraction], elements: int) -> list[int]:
    """Tunable MAGMAX eq. 5, 6, written here a second time: a check that asks the package proves nothing."""
    counts = [int(share * elements) for share in shares]
    first = [t for t, share in enumerate(shares) if share]
    for t in first[: elements - sum(counts)]:
        counts[t] += 1
    return counts


def tensor(path: Path, name: str) -> np.ndarray:
    """float32. Read here and not by a library, none of which has bfloat16 in NumPy."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
        start, stop = entry["data_offsets"]
        file.seek(8 + length + start)
        data = file.read(stop - start)
    if entry["dtype"] == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
    return values.reshape(entry["shape"])


def as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as they are read back from a file of this format."""
    if dtype == "bfloat16":
        return (np.frombuffer(encoded(values, dtype), "<u2").astype(np.uint32) << 16).view(np.float32)
    return values.astype(dtype).astype(np.float32).ravel()


def measure(
    base: Path,
    tasks: Sequence[Path],
    workdir: Path,
    rows_wanted: Sequence[Case],
    *,
    runs: int,
    small: tuple[Path, Sequence[Path]] | None = None,
) -> dict[str, Any]:
    """All rows for these inputs. `small`: a base and as many tasks of a small model in the same format, on which each
    case first compiles its kernels where this machine never has.
    """
    inputs, out = [base, *tasks], workdir / "merged.safetensors"
    nbytes = sum(path.stat().st_size for path in inputs)
    yardstick.measure(inputs, workdir / "yardstick.tmp")  # warms the page cache
    sticks: dict[bool, list[yardstick.Yardstick]] = {False: [], True: []}
    rows = []

    def stick(cold: bool) -> None:
        if cold:
            common.drop_from_cache(inputs)
        sticks[cold].append(yardstick.measure(inputs, workdir / "yardstick.tmp"))

    for case in rows_wanted:
        measured = []
        if small is not None:
            common.run_measured(command(case, *small, out))
            shutil.rmtree(out.with_suffix(""), ignore_errors=True)
        for run in range(runs + 1):
            stick(case.cold)
            if case.cold:
                common.drop_from_cache(inputs)
            measured.append(common.run_measured(command(case, base, tasks, out)))
            if run == 0:
                check(case, base, tasks, out)
        shutil.rmtree(out.with_suffix(""), ignore_errors=True)
        del measured[: runs > 0]  # the first finds caches cold; with no other run it must do
        seconds = common.spread([m.seconds for m in measured])
        rows.append(
            {
                "method": case.name,
                "options": list(case.options),
                "cold": case.cold,
                "seconds": seconds,
                "processor_seconds": common.spread([m.processor for m in measured]),
                "gb_per_second": round(nbytes / 1e9 / seconds["median"], 2),
                "anonymous_mb": round(max(m.anonymous for m in measured) / 1e6, 1),
                "resident_mb": round(max(m.resident for m in measured) / 1e6, 1),
            }
        )
        anonymous = rows[-1]["anonymous_mb"]
        print(f"T = {len(tasks)}  {case.name:40s} {seconds['median']:7.2f} s  {anonymous:7.0f} MB", flush=True)
    for path in (out, Path(f"{out}.receipt.json")):
        path.unlink(missing_ok=True)
    result: dict[str, Any] = {"tasks": len(tasks), "input_gb": round(nbytes / 1e9, 3), "rows": rows}
    for is_cold, name in ((False, "yardstick"), (True, "yardstick_cold")):
        if sticks[is_cold]:
            result[name] = {
                "seconds": common.spread([s.total for s in sticks[is_cold]]),
                "read": common.spread([s.read for s in sticks[is_cold]]),
                "processor_seconds": common.spread([s.processor for s in sticks[is_cold]]),
            }
    for row in rows:
        against = result["yardstick_cold" if row["cold"] else "yardstick"]
        for own, times in (("seconds", "times_yardstick"), ("processor_seconds", "times_yardstick_processor")):
            row[times] = round(row[own]["median"] / against[own]["median"], 2)
    return result


def started(workdir: Path, base: Path, tasks: Sequence[Path]) -> dict[str, Any]:
    """What commands take that do next to nothing."""
    out = workdir / "merged.safetensors"
    commands = {
        "prefmerge --help": [*common.PREFMERGE, "--help"],
        "a merge of a tiny model": command(Case("magmax", ("--method", "magmax")), base, tasks[:2], out),
    }
    found = {}
    for name, words in commands.items():
        measured = [common.run_measured(words) for _ in range(STARTS + 1)][1:]  # the first finds caches cold
        found[name] = {
            "seconds": common.spread([m.seconds for m in measured]),
            "processor_seconds": common.spread([m.processor for m in measured]),
        }
    for path in (out, Path(f"{out}.receipt.json")):
        path.unlink()
    return found


def benchmark(
    workdir: Path, *, model: str, tasks: Sequence[int], dtype: str, runs: int, cold: bool, keep: bool, every: bool
) -> dict[str, Any]:
    """The whole result, ready to be written. `every`: of all methods."""
    origin = common.provenance()
    base, made = make(workdir, model=model, tasks=max(tasks), dtype=dtype)
    toy = "qwen2-toy" if model in LANGUAGE_MODELS else "toy"
    small = None if model == toy else make(workdir / "small", model=toy, tasks=max(tasks), dtype=dtype)
    try:
        sets = []
        for count in tasks:
            rows, first = every_method(count) if every else cases(count, cold), small and (small[0], small[1][:count])
            sets.append(measure(base, made[:count], workdir, rows, runs=runs, small=first))
        start = started(workdir, *(small or (base, made)))
    finally:
        shutil.rmtree(workdir / "small", ignore_errors=True)
        if not keep:
            for path in (base, *made):
                path.unlink()
    return {
        "question": common.question(__doc__),
        **origin,
        "model": model,
        "elements": sum(math.prod(shape) for shape in shapes_of(model).values()),
        "dtype": dtype,
        "start": start,
        "sets": sets,
    }


COLUMNS = ("seconds", "spread", "CPU seconds", "GB/s", "x yardstick", "x CPU", "anonymous MB", "resident MB")


def _timed(seconds: dict[str, float]) -> list[str]:
    return [f"{seconds['median']:.2f}", f"{seconds['least']:.2f} - {seconds['most']:.2f}"]


def _processor(stick: dict[str, Any]) -> str:
    return f"{stick['processor_seconds']['median']:.2f}" if "processor_seconds" in stick else ""


def _times(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.1f}" if name in row else ""


def render(data: dict[str, Any], billion: dict[str, Any] | None = None, by_kernel: dict[str, Any] | None = None) -> str:
    """docs/speed.md, but for what other benchmarks write below. `billion`: the result for a model of 1 B elements;
    `by_kernel`: that of `time_by_kernel`. What is not there is left out.
    """
    made_by = "python -m benchmarks.merge_speed --render-only --docs docs/speed.md"
    about = (
        f"{_model(data)} "
        "One *yardstick* is all inputs read once through memory maps on all cores plus one output written and fsynced, "
        "measured between the runs. *x yardstick* compares wall seconds, *x CPU* those of all cores: the number to "
        "trust, since other programs ran on the machine. Ten models are written by `prefmerge sweep`. Anonymous "
        "memory is what `--max-memory` bounds; resident memory counts mapped pages of the inputs too, which the "
        "kernel takes back when it needs them.\n"
    )
    generated = f"<!-- generated from benchmarks/results/merge_speed.json: {made_by} -->\n"
    parts = ["# Speed and memory\n", generated, data["question"] + "\n", about, *_tables(data)]
    if billion is not None:
        parts += ["## Every method, with a billion elements\n", f"{_model(billion)}\n", *_tables(billion)]
        parts.append(speed_aims.render(data, billion))
    if by_kernel is not None:
        parts.append(time_by_kernel.render(by_kernel))
    return "\n".join(parts)


def page(result: Path) -> str:
    """`render` of a result and of what other results there are."""
    others = [json.loads(file.read_text(encoding="utf-8")) if file.exists() else None for file in OTHERS]
    return render(json.loads(result.read_text(encoding="utf-8")), *others)


def _model(data: dict[str, Any]) -> str:
    elements = f" ({data['elements'] / 1e6:.0f} M elements)" if "elements" in data else ""
    count = min(row["seconds"]["runs"] for measured in data["sets"] for row in measured["rows"])
    runs = f"median of {count} runs" if count > 1 else "one run each"
    return f"Model: {data['model']}{elements}, {data['dtype']}. Whole processes (`prefmerge merge`), {runs}."


def _tables(data: dict[str, Any]) -> list[str]:
    """A table for each number of tasks, and where it was measured."""
    tables = []
    for measured in data["sets"]:
        rows = []
        for key, name in (("yardstick", "*yardstick*"), ("yardstick_cold", "*yardstick, cold cache*")):
            if key in measured:
                seconds = measured[key]["seconds"]
                speed = f"{measured['input_gb'] / seconds['median']:.1f}"
                rows.append([name, *_timed(seconds), _processor(measured[key]), speed, "1", "1", "", ""])
        for row in measured["rows"]:
            processor = f"{row['processor_seconds']['median']:.2f}"
            speed = f"{row['gb_per_second']:.1f}"
            times = [_times(row, name) for name in ("times_yardstick", "times_yardstick_processor")]
            memory = [f"{row['anonymous_mb']:.0f}", f"{row['resident_mb']:.0f}"]
            rows.append([row["method"], *_timed(row["seconds"]), processor, speed, *times, *memory])
        tables.append(common.table([f"T = {measured['tasks']}", *COLUMNS], rows))
    return [*tables, common.origin(data) + "\n"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=common.question(__doc__),
        epilog="python -m benchmarks.merge_speed --tasks 5 20 --workdir /data --docs docs/speed.md",
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--model", choices=[*MODELS, *LANGUAGE_MODELS], default="vit-b-16")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=5, help="measured runs after the first, which is checked")
    parser.add_argument("--cold", action="store_true", help="also measure with the inputs dropped from the page cache")
    parser.add_argument("--workdir", type=Path, help="where the checkpoints are made; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints in --workdir")
    parser.add_argument("--every-method", action="store_true", help="a row for each method, in place of the usual ones")
    parser.add_argument("--toy", action="store_true", help="a model of 51 k elements, T = 3, no run after the first")
    parser.add_argument("--result", type=Path, default=common.RESULTS / "merge_speed.json")
    parser.add_argument("--docs", type=Path, help="also render the tables into this file")
    parser.add_argument("--render-only", action="store_true", help="render an existing result; measure nothing")
    options = parser.parse_args(arguments)
    if not options.render_only:
        model, tasks, runs = ("toy", [3], 0) if options.toy else (options.model, options.tasks, options.runs)
        with tempfile.TemporaryDirectory(dir=options.workdir) as scratch:
            workdir = options.workdir if options.keep and options.workdir else Path(scratch)
            data = benchmark(
                workdir,
                model=model,
                tasks=tasks,
                dtype=options.dtype,
                runs=runs,
                cold=options.cold,
                keep=options.keep,
                every=options.every_method,
            )
        common.write_result(options.result, data)
    if options.docs:
        before = options.docs.read_text(encoding="utf-8") if options.docs.exists() else ""
        _, mark, others = before.partition("\n<!-- made by ")
        options.docs.write_text(page(options.result) + mark + others, encoding="utf-8")


if __name__ == "__main__":
    main()
