"""How do time and memory of a merge compare with mergekit's, on the same files and with the same recipes?

A base and five tasks with the shapes of Qwen2, in bfloat16 and in float32; each merge a whole process (start to end,
output written; only prefmerge waits until it is on the disk), the tools by turns, in alternating order. Two more parts
have files of their own: `benchmarks.rounding` and `benchmarks.layouts`. Writes `results/against_mergekit.json`, in
which each part says when and where it was measured; `--parts` measures some again. `--docs` and `--readme` render it
(`benchmarks.against_mergekit_tables`). 10 GB of disk and half an hour. Not here: other tools.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import against_mergekit_tables, common, in_float64, layouts, mergekit_recipes, rounding, yardstick
from benchmarks.make_checkpoints import LANGUAGE_MODELS, shapes_of
from benchmarks.mergekit_program import Mergekit, installed, there
from benchmarks.mergekit_recipes import METHODS, OURS, WIDER

SCRATCH = Path(__file__).parent / "scratch"
DTYPES = ("bfloat16", "float32")
PARTS = ("speed", "rounding", "layouts")
LEFT_OUT = "mergekit was left out"


@dataclass(frozen=True)
class Sizes:
    """How large the comparison is."""

    model: str = "qwen2-0.2b"
    layer: str = "qwen2-layer"
    tasks: int = 5
    runs: tuple[int, ...] = (3, 3)  # in each of DTYPES
    layouts: tuple[str, ...] = tuple(layouts.LAYOUTS)


TOY = Sizes("qwen2-toy", "qwen2-toy", 3, (1, 1), ("Llama", "BERT", "ViT, classifier"))


def command(tool: str, mergekit: Mergekit | None, recipe: Path, out: Path) -> list[str]:
    if tool == OURS or mergekit is None:
        return [*common.PREFMERGE, "merge", str(recipe), "-o", str(out)]
    return mergekit.command(recipe, out)


def measure(folder: Path, sizes: Sizes, dtype: str, mergekit: Mergekit | None) -> dict[str, Any]:
    """Time and memory in one format. mergekit in float32 runs once, with the methods that `benchmarks.rounding` has."""
    folders = mergekit_recipes.checkpoints(folder, sizes.model, sizes.tasks, dtype)
    inputs = [own / "model.safetensors" for own in folders]
    tools = mergekit_recipes.variants(dtype, mergekit=mergekit is not None)
    measured: dict[tuple[str, str], list[common.Measured]] = {}
    sticks, out = [], folder / "out"
    for run in range(sizes.runs[DTYPES.index(dtype)]):
        for method in METHODS:
            sticks.append(yardstick.measure(inputs, folder / "yardstick.tmp"))
            for tool in list(tools)[:: -1 if run % 2 else 1]:
                if tool == WIDER and (run or method not in in_float64.METHODS):
                    continue
                recipe = mergekit_recipes.write(folder / "recipe.yml", method, folders, tools[tool])
                runs = measured.setdefault((method, tool), [])
                runs.append(common.run_measured(command(tool, mergekit, recipe, out)))
                shutil.rmtree(out)
                print(f"{dtype} {method:16s} {tool:18s} {runs[-1]}", flush=True)
    shutil.rmtree(folder)
    return {
        "dtype": dtype,
        "yardstick": {"seconds": common.spread([stick.total for stick in sticks])},
        "rows": [row(method, tool, runs) for (method, tool), runs in measured.items()],
    }


def row(method: str, tool: str, runs: Sequence[common.Measured]) -> dict[str, Any]:
    return {
        "method": method,
        "tool": tool,
        "seconds": common.spread([run.seconds for run in runs]),
        "processor_seconds": common.spread([run.processor for run in runs]),
        "anonymous_mb": round(max(run.anonymous for run in runs) / 1e6, 1),
        "resident_mb": round(max(run.resident for run in runs) / 1e6, 1),
    }


def warm_up(folder: Path, mergekit: Mergekit | None) -> None:
    """Merge something tiny with each tool, method and format: kernels and Python files are compiled."""
    for dtype in DTYPES:
        own = folder / dtype
        folders = mergekit_recipes.checkpoints(own, TOY.model, TOY.tasks, dtype)
        for method in METHODS:
            recipe = mergekit_recipes.write(own / f"{method}.yml", method, folders, {"dtype": dtype})
            common.run_measured(command(OURS, None, recipe, own / method))
    if mergekit:
        common.run_measured(mergekit.command(folder / DTYPES[0] / "ties.yml", folder / "theirs"))


def part(name: str, folder: Path, sizes: Sizes, mergekit: Mergekit | None) -> dict[str, Any]:
    """One of PARTS, with where it comes from."""
    origin = common.provenance()
    if name == "layouts":
        return {**origin, "rows": layouts.measure(folder, mergekit, sizes.layouts)}
    model = sizes.model if name == "speed" else sizes.layer
    elements = sum(math.prod(shape) for shape in shapes_of(model).values())
    about = {**origin, "model": model, "elements": elements, "tasks": sizes.tasks}
    if name == "rounding":
        return {**about, "rows": rounding.measure(folder, mergekit, model, sizes.tasks)}
    if sizes != TOY:
        warm_up(folder / "tiny", mergekit)
    return {**about, "sets": [measure(folder / dtype, sizes, dtype, mergekit) for dtype in DTYPES]}


def chosen(options: argparse.Namespace, folder: Path) -> tuple[Mergekit | None, str | None]:
    """mergekit, or why it is not there."""
    if options.without_mergekit:
        return None, f"{LEFT_OUT}."
    if options.mergekit:
        return there(options.mergekit), None
    try:
        return installed(folder / "environment"), None
    except RuntimeError as error:
        return None, f"{LEFT_OUT}: {str(error).splitlines()[0]}"


def benchmark(options: argparse.Namespace) -> None:
    """Measure and write part after part; those that are not asked for stay as they are in the file."""
    sizes = TOY if options.toy else Sizes(options.model, tasks=options.tasks, runs=tuple(options.runs))
    options.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.workdir) as scratch:
        folder = Path(scratch).absolute()
        mergekit, note = chosen(options, folder)
        known = {"mergekit": mergekit.versions() if mergekit else None, "note": note}
        parts = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {}
        for name in options.parts:
            parts[name] = known | part(name, folder / name, sizes, mergekit)
            ordered = {name: parts[name] for name in PARTS if name in parts}
            common.write_result(options.result, {"question": common.question(__doc__)} | ordered)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=common.question(__doc__),
        epilog="python -m benchmarks.against_mergekit --docs docs/speed.md --readme README.md",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--mergekit", type=Path, metavar="ENVIRONMENT", help="a virtual environment that has it; by default one is made"
    )
    where.add_argument("--without-mergekit", action="store_true", help="measure prefmerge only")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS, help="what to measure; the rest stays")
    parser.add_argument("--model", choices=LANGUAGE_MODELS, default=Sizes.model)
    parser.add_argument("--tasks", type=int, default=Sizes.tasks)
    parser.add_argument("--runs", type=int, nargs=2, default=Sizes.runs, help="in bfloat16 and in float32")
    parser.add_argument("--workdir", type=Path, default=SCRATCH, help="where the checkpoints are made, and removed")
    parser.add_argument("--toy", action="store_true", help="tiny models, T = 3, one run, three layouts")
    parser.add_argument("--result", type=Path, default=common.RESULTS / "against_mergekit.json")
    parser.add_argument("--docs", type=Path, help="also write the tables into this page")
    parser.add_argument("--readme", type=Path, help="also write the short table into this page")
    parser.add_argument("--render-only", action="store_true", help="render an existing result; measure nothing")
    options = parser.parse_args(arguments)
    if not options.render_only:
        benchmark(options)
    data = json.loads(options.result.read_text(encoding="utf-8"))
    for page, text, heading in (
        (options.docs, against_mergekit_tables.tables, None),
        (options.readme, against_mergekit_tables.short_table, against_mergekit_tables.HEADING),
    ):
        if page:
            before = page.read_text(encoding="utf-8")
            page.write_text(against_mergekit_tables.placed(before, text(data), heading), encoding="utf-8")


if __name__ == "__main__":
    main()
