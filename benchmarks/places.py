"""Is a model that was merged for a place better there than one that was merged for everything?

The whole experiment of Tunable MAGMAX's section 4 on a real pre-trained model and real data: all-MiniLM-L6-v2 on
WordNet's definitions (as `benchmarks.real_model`, with 125 test texts a class, so that a place can take 400 of its 500
samples from one task), two training seeds, every method at scales 0.5 and 1.0. The recipe is
`examples/bench/wordnet.yaml`, with the model from its package in place of the hub. Resumable: hours on two cores,
1.5 GB of disk. Writes `results/places.json` and, with --docs, the report as a document with its figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import common, real_model

WORK = Path(__file__).parent / "scratch" / "places"
RECIPE = common.ROOT / "examples" / "bench" / "wordnet.yaml"
TEST = 125  # definitions of a class; the smallest class has 428, of which 300 are trained on
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
FIGURES = "places"  # the document's folder of figures


def recipe(work: Path, model: Path) -> dict[str, Any]:
    """The example's recipe with the model and the data of this machine."""
    found = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    found["finetune"]["model"]["id"] = str(model)
    found["finetune"]["data"] |= {"name": str(work / "data" / "train.csv"), "test": str(work / "data" / "test.csv")}
    return found


def run(work: Path, wordnet: Path, model: Path, changes: dict[str, Any], jobs: int | None) -> dict[str, Any]:
    """Everything, from the data to the results. `changes` replace keys of the recipe."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data" / "test.csv").exists():
        real_model.write_data(wordnet, work / "data", real_model.TRAIN, TEST)
    began = common.provenance()
    file = work / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe(work, model), **changes}, sort_keys=False), encoding="utf-8")
    command = [*common.PREFMERGE, "bench", str(file), "-o", str(work / "bench")]
    done = subprocess.run([*command, *(["--jobs", str(jobs)] if jobs else [])], check=False, stdout=subprocess.DEVNULL)
    results = json.loads((work / "bench" / "results.json").read_text(encoding="utf-8"))
    if done.returncode and not results["missing"]:
        raise RuntimeError(f"prefmerge bench ended with exit code {done.returncode}")
    for place in results["environments"]:
        for part in place["parts"]:  # ids by the thousand, which the manifest holds
            part["meta"], part["test"] = len(part["meta"]), len(part["test"])
    return {"question": common.question(__doc__), **began, **elsewhere(results, work, model)}


def elsewhere(found: Any, work: Path, model: Path) -> Any:
    """Results without the paths of the machine that made them."""
    if isinstance(found, dict):
        return {key: elsewhere(value, work, model) for key, value in found.items()}
    if isinstance(found, list):
        return [elsewhere(value, work, model) for value in found]
    return _named(found, work, model) if isinstance(found, str) else found


def _named(text: str, work: Path, model: Path) -> str:
    return text.replace(str(model), MODEL).replace(str(work), "WORK")


def document(work: Path, model: Path, file: Path) -> None:
    """The report as a document: its Markdown, with its figures in a folder beside it."""
    text = _named((work / "bench" / "report.md").read_text(encoding="utf-8"), work, model)
    folder = file.parent / FIGURES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for picture in sorted((work / "bench" / "figures").glob("*.png")):
        if picture.name in text:
            shutil.copy(picture, folder / picture.name)
    text = text.replace("(figures/", f"({FIGURES}/")
    made = (
        f"Made by `python -m benchmarks.places --docs docs/{file.name}` from the right answers in "
        "`benchmarks/results/places.json`; do not edit.\n"
    )
    title, _, rest = text.partition("\n")
    file.write_text(f"{title}\n\n{made}{rest}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is finished is not done again")
    parser.add_argument("--wordnet", type=Path, default=real_model.WORDNET, help="folder with data.noun and data.verb")
    parser.add_argument("--model", type=Path, help="folder of the encoder; default: the package's")
    parser.add_argument("--jobs", type=int, help="cells side by side; default: one per core")
    parser.add_argument("--docs", type=Path, help="also write the report into this file, with figures beside it")
    asked = parser.parse_args(arguments)
    if not (asked.wordnet / "data.noun").is_file():
        sys.exit(f"{asked.wordnet}: no data.noun there. Install Debian's wordnet-base, or give --wordnet.")
    model = asked.model or real_model.encoder_folder()
    data = run(asked.work, asked.wordnet, model, {}, asked.jobs)
    common.write_result(common.RESULTS / "places.json", data)
    if asked.docs:
        document(asked.work, model, asked.docs)


if __name__ == "__main__":
    main()
