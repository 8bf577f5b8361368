"""Which defaults of `merge` are best, with nothing said (uniform shares), with the label shares of targets, and with
alpha 0.5 and 2, on every set that is given, against the last checkpoint and MAGMAX?

A set is a finished run of `prefmerge finetune`, trained in sequence, whose test data can be read: `--set NAME=RUN`, as
often as there are sets. Every rule is merged for every preference. Nothing is chosen on the test samples, which judge
all of them, over all classes that compete in their task: for a preference over all tasks, the accuracy of each task
weighs what the preference gives it; a target (two or three tasks, 50 shown samples, 450 that judge) gives the shares
that its shown labels have. One forward pass a model and sample. Writes `results/defaults.json`, and the tables of
docs/algorithm.md and docs/limits.md from it (`--render-only`: nothing else). Resumable: what is judged is kept in
`--work`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, defaults_tables
from prefmerge.ground import atomic
from prefmerge.ground.store import digest
from prefmerge.lab import environments as targets
from prefmerge.lab.demo.digits import load_digits, scenario_of
from prefmerge.lab.demo.train import configuration
from prefmerge.lab.plan import run_identity
from prefmerge.lab.samples import Samples, digest_of, pools_of
from prefmerge.merging.candidates import Candidates
from prefmerge.models.encoders.weights import put_arrays
from prefmerge.models.evaluation import right_answers
from prefmerge.models.features import embed
from prefmerge.preference import Preference
from prefmerge.runs import IN_SEQUENCE
from prefmerge.target import similarity
from prefmerge.training.config_file import run_config
from prefmerge.training.opened import OpenedRun, best_device, open_run

WORK = Path(__file__).parent / "scratch" / "defaults"
RESULT = common.RESULTS / "defaults.json"
SIZE, TARGETS = 500, 6  # samples of a target, a tenth of them shown; how many targets a set has
MIXES = targets.PAPERS[:3]
OVER_ALL = {
    "uniform": Preference.uniform(),
    "alpha 0.5": Preference.parse("alpha:0.5"),
    "alpha 2": Preference.parse("alpha:2"),
}
_TUNABLE = {"method": "tunable_magmax"}


@dataclass(frozen=True)
class Rule:
    """A row of the table. `settings` of `merge`, all but scale and preference."""

    name: str
    settings: Mapping[str, str]
    scale: str

    @property
    def tunable(self) -> bool:
        return self.settings["method"] == _TUNABLE["method"]


def _tunable(name: str, selection: str, importance: str, scale: str) -> Rule:
    return Rule(f"{name}, scale {scale}", {**_TUNABLE, "selection": selection, "importance": importance}, scale)


RULES = (  # those that differ in nothing but the scale stand together
    _tunable("optimal + step", "optimal", "step", "1.0"),
    _tunable("optimal by magnitude", "optimal", "magnitude", "0.5"),
    _tunable("optimal by magnitude", "optimal", "magnitude", "1.0"),
    _tunable("paper", "paper", "magnitude", "0.5"),
    _tunable("paper", "paper", "magnitude", "1.0"),
    _tunable("as published", "released", "magnitude", "0.5"),
    Rule("MAGMAX, scale 0.5", {"method": "magmax"}, "0.5"),
    Rule("average, scale 0.5", {"method": "average"}, "0.5"),
    Rule("average, scale 1.0", {"method": "average"}, "1.0"),
    Rule("last checkpoint", {"method": "last"}, "1.0"),
)


def opened(folder: Path) -> OpenedRun:
    """A run with its data's test samples; a run of the demo has scikit-learn's digits."""
    config = run_config(folder)
    if config.data != configuration(config.seed).data:
        return open_run(folder, samples="test")
    return replace(open_run(folder, samples="none"), scenario=scenario_of(load_digits()))


@dataclass
class Set:
    """A run with its targets. `kept`: a file for everything that was judged."""

    name: str
    run: Path
    kept: Path
    most: int = TARGETS
    size: int = SIZE
    batch: int = 128
    passes: int = field(default=0, init=False)  # models that were judged in this call

    def __post_init__(self) -> None:
        self.opened = opened(self.run)
        if self.opened.run.training not in IN_SEQUENCE:
            training = self.opened.run.training
            raise SystemExit(f"{self.run}: its training is {training!r}. Give a run trained in sequence.")
        pools = pools_of(self.opened.scenario)
        several = targets.environments(pools, MIXES, size=self.size)
        self.targets = sorted(several, key=lambda one: one.variant)[: self.most]  # of every kind, before a second of it
        self.samples = Samples.of(pools, self.targets)
        self.shares = {one.key: self._label_shares(one) for one in self.targets}
        identity = run_identity(self.opened.run, (self.run / "config.yaml").read_bytes())
        self.identity = digest([identity, digest_of(pools), self.size])

    def _label_shares(self, target: targets.Environment) -> Preference:
        tasks = self.opened.run.tasks
        shown = target.label_counts(self.samples.pools)
        return similarity.label([one.label_counts for one in tasks], shown, [one.name for one in tasks]).preference()

    def judge(self, rows: np.ndarray) -> np.ndarray:
        """Which of the samples in these rows the model that the encoder holds names correctly."""
        self.passes += 1
        device, right = best_device(self.opened.config), []
        for task, positions in self.samples.groups(rows):
            of = self.opened.scenario.tasks[task]
            examples = of.test.take(positions)
            embeddings = embed(self.opened.encoder, examples, batch=self.batch, device=device)
            right.append(right_answers(embeddings, self.opened.head, examples.labels, of.among))
        return np.concatenate(right)

    def on_all(self) -> dict[str, Any]:
        """The accuracy in each task, and at each target."""
        right = self.judge(np.arange(len(self.samples.ids)))
        by_task = [n / size for n, size in zip(self.samples.by_task(right), self.samples.sizes, strict=True)]
        at = {one.key: float(right[self.samples.judged(one.key)].mean()) for one in self.targets}
        return {"tasks": by_task, "targets": at}

    def preferences(self, rule: Rule) -> Iterator[tuple[str, Preference | None]]:
        """What a rule is merged for: (what, preference)."""
        if not rule.tunable:
            yield "", None
            return
        yield from OVER_ALL.items()
        yield from self.shares.items()

    def rows(self) -> list[dict[str, Any]]:
        """The accuracy of every rule for every preference, done ones taken from the folder."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        run = self.opened.run
        files = [run.task_path(index) for index in range(len(run.tasks))]
        with Candidates(run.base_path, files, [task.name for task in run.tasks]) as candidates:
            for _, group in groupby(RULES, key=lambda rule: rule.settings):
                rules = list(group)
                for what, preference in self.preferences(rules[0]):
                    given = {} if preference is None else {"preference": preference}
                    answers = self._answers(candidates, rules, {**rules[0].settings, **given}, what)
                    found.update({(rule.name, what): one for rule, one in zip(rules, answers, strict=True)})
        return [row for rule in RULES for row in self._of(rule, found)]

    def _answers(
        self, candidates: Candidates, rules: Sequence[Rule], settings: Mapping[str, Any], what: str
    ) -> list[dict[str, Any]]:
        """What one merge answers at the scale of each rule, for all samples or those of a target."""
        said = {k: v.describe() if isinstance(v, Preference) else v for k, v in settings.items()}
        keys = [digest([self.identity, said, rule.scale, sorted(self.shares), what]) for rule in rules]
        kept = [self.kept / f"{key}.json" for key in keys]
        waiting = [(rule, file) for rule, file in zip(rules, kept, strict=True) if not file.exists()]
        if waiting:
            models = candidates.at_scales(candidates.vector(**settings), [rule.scale for rule, _ in waiting])
            for (rule, file), model in zip(waiting, models, strict=True):
                put_arrays(self.opened.encoder, model)
                if what in self.shares:
                    answer: dict[str, Any] = {"targets": {what: float(self.judge(self.samples.judged(what)).mean())}}
                else:
                    answer = self.on_all()
                atomic.write_whole(file, json.dumps(answer).encode())
                print(f"{self.name}: {rule.name}, {what or 'no preference'}", flush=True)
        return [json.loads(file.read_text(encoding="utf-8")) for file in kept]

    def _of(self, rule: Rule, found: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows of one rule: one for each preference."""
        names = [task.name for task in self.opened.run.tasks]
        for title, preference in OVER_ALL.items():
            tasks = found[rule.name, title if rule.tunable else ""]["tasks"]
            accuracy = float(np.dot([float(share) for share in preference.shares(names)], tasks))
            yield {"set": self.name, "preference": title, "rule": rule.name, "accuracy": accuracy, "tasks": tasks}
        at = {key: found[rule.name, key if rule.tunable else ""]["targets"][key] for key in self.shares}
        mean = float(np.mean(list(at.values())))
        yield {"set": self.name, "preference": "label shares", "rule": rule.name, "accuracy": mean, "targets": at}


def about(one: Set) -> dict[str, Any]:
    """What a set is: tasks, samples, targets."""
    return {
        "set": one.name,
        "tasks": len(one.opened.run.tasks),
        "test_samples": len(one.samples.ids),
        "targets": {target.key: target.title for target in one.targets},
        "judged_at_a_target": [len(one.samples.judged(target.key)) for target in one.targets],
    }


def run(sets: Mapping[str, Path], work: Path, **sizes: int) -> dict[str, Any]:
    """All sets one after another, done cells taken from the folder."""
    began = common.provenance()
    work.mkdir(parents=True, exist_ok=True)
    rows, described = [], []
    for name, folder in sets.items():
        one = Set(name, folder, work, **sizes)
        rows += one.rows()
        described.append(about(one))
    return {"question": common.question(__doc__), **began, "sets": described, "rows": rows}


def _named(text: str) -> tuple[str, Path]:
    name, given, folder = text.partition("=")
    if not (name and given and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=RUN, found {text!r}")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", type=_named, default=[], metavar="NAME=RUN", dest="sets")
    parser.add_argument("--work", type=Path, default=WORK, help="where all is kept; what is done is not done again")
    parser.add_argument("--targets", type=int, default=TARGETS, help="so many targets of each set")
    parser.add_argument("--size", type=int, default=SIZE, help="samples of a target, shown and judged")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--render-only", action="store_true", help="measure nothing: the documents from the result")
    asked = parser.parse_args(arguments)
    if not asked.render_only:
        if not asked.sets:
            parser.error("give at least one --set NAME=RUN")
        common.write_result(asked.result, run(dict(asked.sets), asked.work, most=asked.targets, size=asked.size))
    if asked.result.exists():
        defaults_tables.write(json.loads(asked.result.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
