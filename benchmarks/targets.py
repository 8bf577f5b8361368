"""Is a model that was merged for a target better there than one that was merged for everything?

The experiment of Tunable MAGMAX's section 4 on a real pre-trained model and real data, with what `prefmerge adapt`
makes of the targets and what a user could do instead: all-MiniLM-L6-v2 on WordNet's definitions. The recipes are
`examples/bench/wordnet.yaml` (5 tasks) and `wordnet-17.yaml`, with the model from its package in place of the hub.
Resumable: days on two cores, 2 GB of disk. Writes `results/targets.json` and `targets_17.json`
(`benchmarks.targets_results`) and, with --docs, the page made from them (`benchmarks.targets_page`). --collect writes
them from what is finished so far. --recipe runs another WordNet recipe of examples/bench; its report is all that it
writes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common, wordnet
from benchmarks.targets_page import NAMES, write_page
from benchmarks.targets_results import collected, extended, summary
from prefmerge.lab.results import Results

WORK = Path(__file__).parent / "scratch" / "targets"
RECIPES = dict(zip(NAMES[:2], (wordnet.RECIPE, wordnet.RECIPE.with_name("wordnet-17.yaml")), strict=True))


def own_recipe(file: Path, work: Path, model: Path, changes: dict[str, Any], folder: Path) -> Path:
    """The recipe for this machine, written into `folder`. `changes` replace keys."""
    own = folder / file.name
    own.write_text(yaml.safe_dump({**wordnet.recipe(file, work, model), **changes}, sort_keys=False), encoding="utf-8")
    return own


def bench(file: Path, work: Path, definitions: Path, model: Path, changes: dict[str, Any], jobs: int | None) -> Path:
    """The output of `prefmerge bench`, from the data on."""
    if not (work / "data" / "test.csv").exists():
        wordnet.write_data(definitions, work / "data", wordnet.TRAIN, wordnet.TEST)
    own, out = own_recipe(file, work, model, changes, work), work / file.stem
    command = [*common.PREFMERGE, "bench", str(own), "-o", str(out)]
    done = subprocess.run([*command, *(["--jobs", str(jobs)] if jobs else [])], check=False, stdout=subprocess.DEVNULL)
    if done.returncode and not Results.load(out / "results.json").missing:
        raise RuntimeError(f"prefmerge bench ended with exit code {done.returncode}")
    return out


def add(recipe: Path) -> None:
    """Extend targets.json."""
    out, result = recipe.with_suffix(""), common.RESULTS / "targets.json"
    asked_for = yaml.safe_load(wordnet.RECIPE.read_text(encoding="utf-8"))
    results = collected(recipe, out)
    names = {results.about["recipe"]["finetune"]["model"]["id"]: wordnet.MODEL, recipe.parent: "WORK"}
    more = summary(results, out, __doc__, names, asked_for)
    common.write_result(result, extended(json.loads(result.read_text(encoding="utf-8")), more, asked_for))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is finished is not done again")
    parser.add_argument("--wordnet", type=Path, default=wordnet.FOLDER, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--jobs", type=int, help="cells side by side; default: one per core")
    parser.add_argument("--recipe", type=Path, help="another of the recipes on WordNet, and not the two")
    parser.add_argument(
        "--add",
        type=Path,
        metavar="RECIPE",
        help="add what is finished of a shortened copy of wordnet.yaml to targets.json: entries that it had not; the "
        "output lies beside RECIPE, without its ending",
    )
    parser.add_argument("--docs", type=Path, help="also write the page into this file, with its figures beside it")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--collect", action="store_true", help="write the results of what is finished; measure nothing")
    only.add_argument("--render-only", action="store_true", help="write the page of the results; measure nothing")
    asked = parser.parse_args(arguments)
    if asked.add is not None:
        add(asked.add.resolve())
    elif not asked.render_only:
        work, model = asked.work.resolve(), asked.model or wordnet.encoder_folder()
        if not asked.collect:
            wordnet.require(asked.wordnet)
        if asked.recipe is not None:
            print(bench(asked.recipe.resolve(), work, asked.wordnet, model, {}, asked.jobs) / "report.html")
            return
        for name, file in RECIPES.items():
            if asked.collect:
                results = collected(work / file.name, work / file.stem)
                if not results.scores:
                    print(f"{work / file.stem}: nothing is finished there, so {name}.json stays as it is.")
                    continue
            else:
                results = Results.load(bench(file, work, asked.wordnet, model, {}, asked.jobs) / "results.json")
            given = results.about["recipe"]["finetune"]["model"]["id"]  # as the run had it: a path, or the hub's name
            names = {given: wordnet.MODEL, work: "WORK"}
            asked_for = yaml.safe_load(file.read_text(encoding="utf-8"))
            data = summary(results, work / file.stem, __doc__, names, asked_for)
            common.write_result(common.RESULTS / f"{name}.json", data)
    if asked.docs:
        write_page(asked.docs)


if __name__ == "__main__":
    main()
