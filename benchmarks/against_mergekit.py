"""How do time, memory, rounding and layouts compare with mergekit's, on the same files and with the same recipes?

A base and five tasks with the shapes of Qwen2, in bfloat16 and in float32; each merge a whole process (start to end,
output written; only prefmerge waits until it is on the disk), the tools by turns, in alternating order. mergekit
computes in the format that the recipe names, so it is also run in float32 with the output in bfloat16, once. The first
outputs are compared with the float64 result (`benchmarks.in_float64`), the tensors of one layer and the last norm.
Layouts: `benchmarks.layouts`. Writes `results/against_mergekit.json`; `--docs` and `--readme` render it
(`benchmarks.against_mergekit_tables`). 8 GB of disk and half an hour. Not here: random methods' numbers.
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

import numpy as np

from benchmarks import against_mergekit_tables, common, in_float64, layouts, yardstick
from benchmarks.make_checkpoints import LANGUAGE_MODELS, config_of, make, shapes_of
from benchmarks.mergekit_program import Mergekit, installed, there

SCRATCH = Path(__file__).parent / "scratch"
METHODS = (*in_float64.METHODS, "dare_ties", "slerp")
OURS, THEIRS, WIDER = "prefmerge", "mergekit", "mergekit, float32"
DTYPES = ("bfloat16", "float32")
COMPARED = ("model.layers.0.", "model.norm.")  # beginnings of the names of the tensors compared with float64
NO_MERGEKIT = "mergekit was left out"


@dataclass(frozen=True)
class Sizes:
    """How large the comparison is."""

    model: str = "qwen2-0.2b"
    tasks: int = 5
    runs: tuple[int, int] = (3, 3)  # in each of DTYPES
    layouts: tuple[str, ...] = tuple(layouts.LAYOUTS)


TOY = Sizes("qwen2-toy", 3, (1, 1), ("Llama", "BERT", "ViT, classifier"))


def recipe(method: str, folders: Sequence[Path], dtype: str, **more: Any) -> dict[str, Any]:
    """mergekit's recipe of a method; slerp is half-way from the base to the first task."""
    if method == "slerp":
        models = [{"model": str(folder)} for folder in folders[:2]]
        half = {"base_model": str(folders[0]), "parameters": {"t": 0.5}}
        return {"merge_method": method, "models": models, **half, "dtype": dtype, **more}
    made = layouts.recipe(method, folders, dtype, **more)
    if method == "dare_ties":
        for model in made["models"]:
            model["parameters"] = {"weight": in_float64.WEIGHT, "density": in_float64.DENSITY}
    return made


def checkpoints(folder: Path, sizes: Sizes, dtype: str) -> list[Path]:
    """The base and its tasks, each a folder that transformers loads."""
    base, tasks = make(folder, model=sizes.model, tasks=sizes.tasks, dtype=dtype)
    folders = []
    for file in (base, *tasks):
        own = folder / file.stem
        own.mkdir()
        file.rename(own / "model.safetensors")
        (own / "config.json").write_text(json.dumps(config_of(sizes.model, dtype)), encoding="utf-8")
        folders.append(own)
    return folders


def command(tool: str, mergekit: Mergekit | None, written: Path, out: Path) -> list[str]:
    if tool == OURS or mergekit is None:
        return [*common.PREFMERGE, "merge", str(written), "-o", str(out)]
    return mergekit.command(written, out)


def read(folder: Path, name: str) -> np.ndarray:
    """A tensor in float64, wherever in a folder it is stored."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:  # NumPy has no bfloat16
            if name in tensors.keys():  # noqa: SIM118: not a mapping
                return tensors.get_tensor(name).double().numpy()
    raise KeyError(f"{folder} has no {name}")


def rounding(out: Path, method: str, folders: Sequence[Path], dtype: str, names: Sequence[str]) -> dict[str, int]:
    """How many elements of an output are not the float64 result rounded once, and how many are further off."""
    wrong = further = elements = 0
    for name in names:
        base, *tasks = (read(folder, name) for folder in folders)
        away = in_float64.steps(read(out, name), method, base, tasks, dtype)
        wrong, further, elements = wrong + int((away > 0).sum()), further + int((away > 1).sum()), elements + away.size
    return {"elements": elements, "wrong": wrong, "further": further}


def measure(folder: Path, sizes: Sizes, dtype: str, mergekit: Mergekit | None) -> dict[str, Any]:
    """Time, memory and rounding in one format."""
    folders = checkpoints(folder, sizes, dtype)
    inputs = [own / "model.safetensors" for own in folders]
    names = [name for name in shapes_of(sizes.model) if name.startswith(COMPARED)]
    variants: dict[str, dict[str, Any]] = {OURS: {"dtype": dtype}}
    if mergekit:
        variants[THEIRS] = {"dtype": dtype}
        if dtype != "float32":
            variants[WIDER] = {"dtype": "float32", "out_dtype": dtype}
    measured: dict[tuple[str, str], list[common.Measured]] = {}
    compared, sticks = [], []
    for run in range(sizes.runs[DTYPES.index(dtype)]):
        for method in METHODS:
            sticks.append(yardstick.measure(inputs, folder / "yardstick.tmp"))
            for tool in list(variants)[:: -1 if run % 2 else 1]:
                if tool == WIDER and (run or method not in in_float64.METHODS):
                    continue
                written, out = folder / f"{method}-{tool[-7:]}.yml", folder / "out"
                written.write_text(json.dumps(recipe(method, folders, **variants[tool])), encoding="utf-8")
                measured.setdefault((method, tool), []).append(
                    common.run_measured(command(tool, mergekit, written, out))
                )
                if run == 0 and method in in_float64.METHODS:
                    compared.append({"method": method, "tool": tool, **rounding(out, method, folders, dtype, names)})
                shutil.rmtree(out)
                print(f"{dtype} {method:16s} {tool:18s} {measured[method, tool][-1]}", flush=True)
    shutil.rmtree(folder)
    return {
        "dtype": dtype,
        "yardstick": {"seconds": common.spread([stick.total for stick in sticks])},
        "rows": [row(method, tool, runs) for (method, tool), runs in measured.items()],
        "rounding": compared,
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
    """Merge something tiny once with each tool, method and format: kernels and Python files are compiled."""
    for dtype in DTYPES:
        folders = checkpoints(folder / dtype, TOY, dtype)
        for method in METHODS:
            written = folder / dtype / f"{method}.yml"
            written.write_text(json.dumps(recipe(method, folders, dtype)), encoding="utf-8")
            common.run_measured(command(OURS, None, written, folder / dtype / method))
    if mergekit:
        common.run_measured(mergekit.command(folder / DTYPES[0] / "ties.yml", folder / "theirs"))


def benchmark(folder: Path, sizes: Sizes, mergekit: Mergekit | None, note: str | None) -> dict[str, Any]:
    """The whole result, ready to be written."""
    origin = common.provenance()
    warm_up(folder / "tiny", mergekit)
    return {
        "question": common.question(__doc__),
        **origin,
        "mergekit": mergekit.versions() if mergekit else None,
        "note": note,
        "model": sizes.model,
        "elements": sum(math.prod(shape) for shape in shapes_of(sizes.model).values()),
        "tasks": sizes.tasks,
        "weight": in_float64.WEIGHT,
        "density": in_float64.DENSITY,
        "sets": [measure(folder / dtype, sizes, dtype, mergekit) for dtype in DTYPES],
        "layouts": layouts.measure(folder / "layouts", mergekit, sizes.layouts),
    }


def chosen(options: argparse.Namespace, folder: Path) -> tuple[Mergekit | None, str | None]:
    """mergekit, or why it is not there."""
    if options.without_mergekit:
        return None, f"{NO_MERGEKIT}."
    if options.mergekit:
        return there(options.mergekit), None
    try:
        return installed(folder / "environment"), None
    except RuntimeError as error:
        return None, f"{NO_MERGEKIT}: {str(error).splitlines()[0]}"


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
        options.workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.workdir) as scratch:
            folder = Path(scratch).absolute()
            mergekit, note = chosen(options, folder)
            sizes = TOY if options.toy else Sizes(options.model, options.tasks, tuple(options.runs))
            common.write_result(options.result, benchmark(folder, sizes, mergekit, note))
    data = json.loads(options.result.read_text(encoding="utf-8"))
    for page, text in (
        (options.docs, against_mergekit_tables.tables),
        (options.readme, against_mergekit_tables.short_table),
    ):
        if page:
            before = page.read_text(encoding="utf-8")
            page.write_text(against_mergekit_tables.placed(before, text(data)), encoding="utf-8")


if __name__ == "__main__":
    main()
