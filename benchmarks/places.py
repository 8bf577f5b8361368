"""Is a model that was merged for a target better there than one that was merged for everything?

The whole experiment of Tunable MAGMAX's section 4 on a real pre-trained model and real data: all-MiniLM-L6-v2 on
WordNet's definitions, two training seeds, every method at scales 0.5 and 1.0. The recipe is
`examples/bench/wordnet.yaml`, with the model from its package in place of the hub. Resumable: hours on two cores,
1.5 GB of disk. Writes `results/places.json` (`benchmarks.places_results`) and, with --docs, the page made from it
(`benchmarks.places_page`). --recipe runs another WordNet recipe of examples/bench; its report is all that it writes.
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
from benchmarks.places_page import write_page
from benchmarks.places_results import compact
from prefmerge.lab.results import Results

WORK = Path(__file__).parent / "scratch" / "places"
RESULT = common.RESULTS / "places.json"


def bench(file: Path, work: Path, definitions: Path, model: Path, changes: dict[str, Any], jobs: int | None) -> Path:
    """The output of `prefmerge bench`, from the data on. `changes` replace keys of the recipe."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data" / "test.csv").exists():
        wordnet.write_data(definitions, work / "data", wordnet.TRAIN, wordnet.TEST)
    name = "bench" if file == wordnet.RECIPE else file.stem
    own, out = work / f"{name}.yaml", work / name
    own.write_text(yaml.safe_dump({**wordnet.recipe(file, work, model), **changes}, sort_keys=False), encoding="utf-8")
    command = [*common.PREFMERGE, "bench", str(own), "-o", str(out)]
    done = subprocess.run([*command, *(["--jobs", str(jobs)] if jobs else [])], check=False, stdout=subprocess.DEVNULL)
    if done.returncode and not Results.load(out / "results.json").missing:
        raise RuntimeError(f"prefmerge bench ended with exit code {done.returncode}")
    return out


def run(work: Path, definitions: Path, model: Path, changes: dict[str, Any], jobs: int | None) -> dict[str, Any]:
    """Everything, from the data to the result, without the paths of this machine."""
    began = common.provenance()
    results = Results.load(bench(wordnet.RECIPE, work, definitions, model, changes, jobs) / "results.json")
    text = json.dumps({"question": common.question(__doc__), **began, **compact(results)})
    return json.loads(text.replace(str(model), wordnet.MODEL).replace(str(work), "WORK"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is finished is not done again")
    parser.add_argument("--wordnet", type=Path, default=wordnet.FOLDER, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--jobs", type=int, help="cells side by side; default: one per core")
    parser.add_argument("--recipe", type=Path, default=wordnet.RECIPE, help="another of the recipes on WordNet")
    parser.add_argument("--docs", type=Path, help="also write the page into this file, with its figure beside it")
    parser.add_argument("--render-only", action="store_true", help="write the page of the result; measure nothing")
    asked = parser.parse_args(arguments)
    if not asked.render_only:
        wordnet.require(asked.wordnet)
        model, file = asked.model or wordnet.encoder_folder(), asked.recipe.resolve()
        if file != wordnet.RECIPE:
            print(bench(file, asked.work, asked.wordnet, model, {}, asked.jobs) / "report.html")
            return
        common.write_result(RESULT, run(asked.work, asked.wordnet, model, {}, asked.jobs))
    if asked.docs:
        write_page(asked.docs)


if __name__ == "__main__":
    main()
