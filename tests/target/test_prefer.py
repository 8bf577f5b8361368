"""From what a user has of the target to a preference: the paper's numbers, honest doubts, and no work done twice."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are torch's (extra places)")
pytest.importorskip("accelerate", reason="encoders are torch's (extra places)")
pytest.importorskip("ot", reason="optimal transport is POT's (extra places)")

from prefmerge.data.scenarios import ClassInfo, Scenario
from prefmerge.errors import DataError, OutputError, OutputExists, PrefmergeError, RunError, UsageError
from prefmerge.ground import atomic
from prefmerge.models.encoders import protocol
from prefmerge.preference import Preference
from prefmerge.runs import Run, RunTask
from prefmerge.target import prefer
from prefmerge.target import similarity as sim
from prefmerge.target.checkpoints import Checkpoints
from prefmerge.target.parameters import SearchParameters
from prefmerge.target.preferred import Preferred
from prefmerge.target.search import SearchResult, Space, Trial
from tests.models.stubs import D, ToyEncoder

COUNTS = {"cars": {"sedan": 30, "van": 10}, "birds": {"owl": 20, "tit": 30}, "digits": {"7": 7}}
SEEN = ["sedan"] * 25 + ["owl"] * 15 + ["Tit"] * 6 + ["van"] * 4


class Reader(ToyEncoder):
    """Reads texts of D numbers; keeps count of loads over all of its kind."""

    loads = 0
    encoded = 0

    def __init__(self, seed: int = 0, name: str = "reader") -> None:
        super().__init__(seed)
        self.kind, self.name = "text", name

    def prepare(
        self,
        inputs: Sequence[Any],
        augmentation: protocol.Augmentation | None = None,
        seeds: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        Reader.encoded += len(inputs)
        return super().prepare([np.array(text.split(), np.float32) for text in inputs], augmentation, seeds)

    def load(self, checkpoint: Path) -> None:
        Reader.loads += 1
        super().load(checkpoint)


def vectors(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, D)) + shift).round(3).astype(np.float32)


def texts(file: Path, rows: np.ndarray) -> Path:
    file.write_text("".join(" ".join(str(x) for x in row) + "\n" for row in rows.tolist()))
    return file


def savez(file: str, arrays: Mapping[str, Any]) -> None:
    np.savez(file, **arrays)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three checkpoints of a toy encoder, samples of their tasks, and of a target that is like the second."""
    monkeypatch.setattr("prefmerge.models.encoders.load_encoder", lambda config, **_: Reader(name=config.id))
    monkeypatch.setattr(Reader, "loads", 0)
    monkeypatch.setattr(Reader, "encoded", 0)
    monkeypatch.chdir(tmp_path)
    Path("samples").mkdir()
    for seed, name in enumerate(("base", "cars", "birds", "digits")):
        ToyEncoder(seed).save(tmp_path / name)
        texts(Path("samples") / f"{name}.txt", vectors(seed, 12, seed))
    texts(Path("target.txt"), vectors(9, 7, 2))
    Path("counts.json").write_text(json.dumps(COUNTS))
    Path("seen.txt").write_text("\n".join(SEEN))
    return tmp_path


def tasks() -> Checkpoints:
    return Checkpoints.of_paths(Path("base"), [Path("cars"), Path("birds"), Path("digits")])


def of_target(**options: Any) -> Preferred:
    return prefer.from_inputs(tasks(), Path("target.txt"), task_samples=[Path("samples")], **options)


def test_labels_give_the_papers_shares_exactly(toys: Path):
    found = prefer.from_labels(tasks(), Path("seen.txt"), task_labels=Path("counts.json"))
    similar = []
    for counts in COUNTS.values():  # eq. 7, one class at a time
        own, seen = sum(counts.values()), [name.casefold() for name in SEEN]
        similar.append(sum(Fraction(n, own) * Fraction(seen.count(c), len(seen)) for c, n in counts.items()))
    expected = tuple(value / sum(similar) for value in similar)
    assert found.preference.shares(("cars", "birds", "digits")) == expected
    assert found.shares == pytest.approx([float(value) for value in expected], abs=1e-15)
    assert found.notes == ()
    assert found.low is not None
    assert found.high is not None
    assert (found.low <= found.shares).all()
    assert (found.shares <= found.high).all()
    low, high = f"{100 * found.low[0]:.0f}", f"{100 * found.high[0]:.0f}"
    assert found.sure() == f"50 samples: with 90 % confidence cars has {low} to {high} %."


def test_labels_of_no_class_change_nothing_and_are_told(toys: Path):
    plain = prefer.from_labels(tasks(), Path("seen.txt"), task_labels=Path("counts.json"))
    Path("more.txt").write_text("\n".join([*SEEN, "sedam", "sedam", "zebra", "gnu", "yak"]))
    found = prefer.from_labels(tasks(), Path("more.txt"), task_labels=Path("counts.json"))
    assert found.preference == plain.preference
    assert found.samples == 50
    assert np.array_equal(np.array(found.low), np.array(plain.low))
    assert found.notes == (
        "5 of the target's 55 labels are no class of any task and not counted: 'sedam', 'gnu', 'yak' and 1 more. Did "
        "you mean 'sedan' by 'sedam'?",
    )


def test_a_run_says_what_its_tasks_had(toys: Path):
    named = tuple(RunTask(name, name, label_counts=counts) for name, counts in COUNTS.items())
    (toys / "run.json").write_text(json.dumps(Run(toys, "sequential", "base", named).to_json()))
    by_run = prefer.from_labels(Checkpoints.of_run(toys), Path("seen.txt"))
    by_file = prefer.from_labels(tasks(), Path("seen.txt"), task_labels=Path("counts.json"))
    assert by_run.preference == by_file.preference
    by_names = prefer.from_labels(None, Path("seen.txt"), task_labels=Path("counts.json"))
    assert by_names.preference == by_file.preference


@pytest.mark.parametrize("kind", ["ot", "cosine", "mmd"])
def test_inputs_are_embedded_by_each_checkpoint_and_compared_with_its_task(kind: sim.FeatureKind, toys: Path):
    found = of_target(kind=kind, settings={"gamma": 3.0})
    ours, theirs = [], []
    for seed in (1, 2, 3):
        encoder = ToyEncoder(seed)
        encoder.tower.eval()
        with torch.no_grad():
            ours.append(encoder.tower(torch.from_numpy(vectors(seed, 12, seed))).numpy())
            theirs.append(encoder.tower(torch.from_numpy(vectors(9, 7, 2))).numpy())
    expected = sim.KINDS[kind](ours, theirs, ("cars", "birds", "digits"), gamma=3.0)
    # Batches may round the last float32 digit otherwise.
    assert found.shares == pytest.approx(expected.shares(), rel=1e-4)
    interval = sim.feature_interval(kind, ours, theirs, expected.names, gamma=3.0)
    assert found.low == pytest.approx(interval.low, abs=1e-3)
    assert found.high == pytest.approx(interval.high, abs=1e-3)
    assert found.preference.names == ("cars", "birds", "digits")


def test_every_checkpoint_is_loaded_once_and_few_samples_are_encoded(toys: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, int]] = []
    found = of_target(samples=5, draws=0, progress=lambda done, total: seen.append((done, total)))
    assert Reader.loads == 3
    assert Reader.encoded == 3 * (5 + 7)
    assert seen[-1] == (36, 36)
    assert seen == sorted(seen)
    assert found.low is None
    assert found.sure() is None
    other = of_target(samples=5, draws=0, seed=1)
    assert other.shares.tolist() != found.shares.tolist()
    monkeypatch.setattr("prefmerge.target.given.inputs.MOST", 4)
    Reader.encoded = 0
    cut = of_target(samples=5, draws=0)
    assert Reader.encoded == 3 * (5 + 4)
    assert cut.samples == 4
    assert "4 of the target's 7 inputs were used." in cut.notes


def test_a_killed_call_resumes(toys: Path):
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > 24:  # in the second task's samples, with those of the first and the place under theta_1 done
            raise Killed

    with pytest.raises(Killed):
        of_target(cache=toys / "cache", progress=kill)
    before = Reader.encoded
    assert before == (12 + 7) + 12
    found = of_target(cache=toys / "cache")
    assert Reader.encoded - before == 12 + 7 + 12 + 7  # nothing of the first checkpoint
    again = of_target(cache=toys / "cache")
    assert Reader.encoded - before == 12 + 7 + 12 + 7
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())
    assert json.dumps(of_target().to_json()) == json.dumps(found.to_json())


def test_embeddings_of_the_users_own(toys: Path):
    ours = {name: vectors(seed, 6, seed) for seed, name in enumerate(COUNTS)}
    place = vectors(9, 5, 1)
    savez("tasks.npz", ours)
    np.save("place.npy", place)
    savez("place.npz", dict.fromkeys(COUNTS, place))
    expected = sim.optimal_transport(list(ours.values()), [place] * 3, tuple(COUNTS), gamma=2.0)
    for tasks_known in (None, tasks()):
        for name in ("place.npy", "place.npz"):
            found = prefer.from_inputs(
                tasks_known, Path(name), task_samples=[Path("tasks.npz")], settings={"gamma": 2.0}, draws=20
            )
            assert found.shares.tolist() == expected.shares().tolist()
            assert found.checkpoints.names == tuple(COUNTS)
    for name, array in ours.items():
        np.save(f"samples/{name}.npy", array)
        (toys / "samples" / f"{name}.txt").unlink()
    apart = [Path("samples") / f"{name}.npy" for name in COUNTS]
    for given in ([Path("samples")], apart):
        found = prefer.from_inputs(
            tasks(), Path("place.npy"), task_samples=given, settings={"gamma": 2.0}, samples=500, draws=0
        )
        assert found.shares.tolist() == expected.shares().tolist()
    few = prefer.from_inputs(None, Path("place.npy"), task_samples=[Path("tasks.npz")], samples=3, draws=0)
    assert few.about["samples_of_tasks"] == [3, 3, 3]
    assert Reader.encoded == 0


def test_nothing_gives_the_same_to_every_task(toys: Path):
    found = prefer.from_nothing(tasks())
    assert found.shares.tolist() == [1 / 3] * 3
    assert found.preference == Preference.uniform()
    assert found.sure() is None


def pairs_run(monkeypatch: pytest.MonkeyPatch) -> tuple[Checkpoints, list[SearchParameters]]:
    """A run whose search, which is another module's, finds half and half at scale 1."""
    named = tuple(RunTask(name, name, label_counts=counts) for name, counts in COUNTS.items())
    Path("run.json").write_text(json.dumps(Run(Path("."), "sequential", "base", named).to_json()))
    names = [name for counts in COUNTS.values() for name in counts]
    scenario = Scenario("class-incremental", "text", tuple(ClassInfo(name, (name,)) for name in names), ())
    monkeypatch.setattr("prefmerge.training.opened.open_data", lambda run: (None, None, scenario))
    asked: list[SearchParameters] = []

    def search(parameters: SearchParameters, progress: Any) -> SearchResult:
        asked.append(parameters)
        progress(None, 0.5, 3, 50)
        half = {"preference": Preference.named({"cars": "0.5", "birds": "0.5"}), "scale": "1"}
        trial = Trial(0, "label preference", half, np.ones(20, bool), True)
        return SearchResult(tuple(COUNTS), (trial,), np.arange(20) < 14, Space(), "enough")

    monkeypatch.setattr("prefmerge.target.search.search_by_accuracy", search)
    Path("pairs.csv").write_text("text,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(SEEN)))
    return Checkpoints.of_run(Path(".")), asked


def test_pairs_are_searched_with_and_the_labels_stand_beside(toys: Path, monkeypatch: pytest.MonkeyPatch):
    known, asked = pairs_run(monkeypatch)
    seen: list[tuple[int, int]] = []
    found = prefer.from_pairs(
        known, Path("pairs.csv"), out=Path("p.json"), seed=3, progress=lambda *now: seen.append(now)
    )
    assert asked == [SearchParameters(run=Path("."), pairs=Path("pairs.csv"), out=Path("p.json"), seed=3, paper=True)]
    assert seen == [(3, 50)]
    assert found.shares.tolist() == [0.5, 0.5, 0]
    assert found.settings == {"scale": "1"}
    assert found.sure() == "Nothing that was tried does better than the label preference on the 6 held-out samples."
    by_labels = prefer.from_labels(known, Path("seen.txt"), seed=3)
    assert found.beside is not None
    assert found.beside.shares.tolist() == by_labels.shares.tolist()
    assert np.array(found.beside.low).tolist() == np.array(by_labels.low).tolist()
    about = found.to_json()["about"]
    assert about["settings"] == {"scale": "1"}
    assert about["labels_alone"]["shares"] == by_labels.shares.tolist()
    assert about["search"]["best"]["held_out"]["n"] == 6
    with pytest.raises(UsageError, match=r"-o place: a search keeps its trials beside the preference, which must be c"):
        prefer.from_pairs(known, Path("pairs.csv"), out=Path("place"))
    with pytest.raises(UsageError, match=r"--pairs are searched with over the tasks of a run: give --run RUN\."):
        prefer.from_pairs(tasks(), Path("pairs.csv"))
    Path("pairs.csv").write_text("text,label\none,sedam\n")
    with pytest.raises(DataError, match=r"pairs\.csv: 1 .* 'sedam' \(first at .* Did you mean 'sedan' by 'sedam'\?"):
        prefer.from_pairs(known, Path("pairs.csv"))


def test_a_preference_that_appears_while_one_is_saved(toys: Path, monkeypatch: pytest.MonkeyPatch):
    found = prefer.from_labels(tasks(), Path("seen.txt"), task_labels=Path("counts.json"))
    place, real = Path("preference.json"), atomic.write_whole

    def late(*args: Any, **options: Any) -> None:
        place.write_text("another's")
        real(*args, **options)

    monkeypatch.setattr(atomic, "write_whole", late)
    with pytest.raises(OutputExists, match=r"preference\.json: exists already\. Give another -o FILE, or --force"):
        found.save(place)
    assert place.read_text() == "another's"


def test_what_is_saved_is_a_preference_that_says_how_it_was_made(toys: Path):
    found = prefer.from_labels(tasks(), Path("seen.txt"), task_labels=Path("counts.json"))
    found.save("deep/preference.json")
    assert Preference.load("deep/preference.json") == found.preference
    about = json.loads(Path("deep/preference.json").read_text())["about"]
    assert about["shares"] == found.shares.tolist()
    assert about["intervals"][1][0] < about["shares"][1] < about["intervals"][1][1]
    assert about["labels"] == {"sedan": 25, "owl": 15, "tit": 6, "van": 4}
    assert about["tasks_label_counts"] == COUNTS
    assert about["similarity"]["kind"] == "label"
    assert about["inputs"]["labels"]["fingerprint"] != about["inputs"]["tasks"]["fingerprint"]
    assert set(about["versions"]) >= {"prefmerge", "numpy", "python"}
    of_features = of_target(draws=20, settings={"solver": "debiased"}).to_json()["about"]
    assert of_features["similarity"]["settings"]["solver"] == "debiased"
    assert of_features["inputs"]["place"]["samples"] == 7
    assert len({entry["fingerprint"] for entry in of_features["inputs"]["tasks"]}) == 3
    with pytest.raises(OutputExists, match=r"deep/preference\.json: exists already\. Give another -o FILE, or --force"):
        found.save("deep/preference.json")
    found.save("deep/preference.json", force=True)
    with pytest.raises(OutputExists, match=r"deep: is a folder; a preference is a file"):
        found.save("deep")
    with pytest.raises(OutputError, match=r"target\.txt/p\.json: cannot be written"):
        found.save("target.txt/p.json")


def labelled(**counts: dict[str, int]) -> Preferred:
    Path("own.json").write_text(json.dumps(counts))
    return prefer.from_labels(None, Path("seen.txt"), task_labels=Path("own.json"), draws=200)


def test_doubts_are_told(toys: Path):
    Path("seen.txt").write_text("a\n" * 51 + "b\n" * 49)
    assert labelled(x={"a": 1}, y={"b": 1}).notes[0].startswith("the similarity is nearly uniform: no task has more ")
    Path("seen.txt").write_text("a\n" * 13 + "b\n" * 8)
    assert labelled(x={"a": 1}, y={"b": 1}).notes[0].startswith("every interval holds an equal share: these samples")
    Path("seen.txt").write_text("a\n" * 9)
    assert labelled(x={"a": 1}, y={"b": 1}).notes == ()
    assert labelled(x={"a": 1, "c": 0}, y={"b": 1, "a": 3, "c": 1}).notes == (
        "1 of 3 classes are in several tasks ('a'): labels alone cannot tell which of these tasks a sample is of.",
    )
    assert labelled(x={"a": 1}).notes == ()
    sharp = of_target(settings={"gamma": 1e6}, draws=0)
    assert sharp.notes[0].startswith("nearly all goes to one task: the smallest distance is 0.")
    assert sharp.notes[0].endswith("gamma is 1000000.0. A smaller --gamma divides more evenly.")
    assert of_target(settings={"gamma": 1e-6}, draws=0).notes[0].startswith("the similarity is nearly uniform")


def spoil(name: str, content: str) -> Path:
    Path(name).write_text(content)
    return Path(name)


def with_labels(name: str, content: str) -> Preferred:
    return prefer.from_labels(tasks(), spoil(name, content), task_labels=Path("counts.json"))


def with_counts(content: dict[str, Any]) -> Preferred:
    return prefer.from_labels(tasks(), Path("seen.txt"), task_labels=spoil("c.json", json.dumps(content)))


def embedded(place: np.ndarray, **arrays: np.ndarray) -> Preferred:
    savez("t.npz", arrays)
    np.save("p.npy", place)
    return prefer.from_inputs(tasks(), Path("p.npy"), task_samples=[Path("t.npz")])


def bare(path: str, given: list[str], **options: Any) -> Preferred:
    return prefer.from_inputs(tasks(), Path(path), task_samples=list(map(Path, given)), **options)


def run_of_kind(training: Any, done: bool = True) -> Checkpoints:
    task = RunTask("cars", "cars", done=done)
    Path("run.json").write_text(json.dumps(Run(Path("."), training, "base", (task,)).to_json()))
    return Checkpoints.of_run(Path("."))


WRONG: list[tuple[Callable[[], object], type[PrefmergeError], str]] = [
    (
        lambda: with_labels("m.txt", "sedam\ncat\nsedam"),
        DataError,
        "m.txt: 3 of the target's 3 labels are no class of any task: 'sedam', 'cat'. The 5 classes are 'sedan', 'van', "
        "'owl' and 2 more. Did you mean 'sedan' by 'sedam'? Write the labels as the tasks' class names.",
    ),
    (
        lambda: with_labels("m.txt", "12"),
        DataError,
        "m.txt: 1 of the target's 1 label is no class of any task: '12'. The 5 classes are ",
    ),
    (
        lambda: with_counts({"cars": {"a": 1}}),
        DataError,
        "c.json: lacks task 'birds'. It has cars; the tasks are cars,",
    ),
    (
        lambda: with_counts({**COUNTS, "x": {"a": 1}}),
        DataError,
        "c.json: has 'x', which is none of the tasks. It has c",
    ),
    (
        lambda: prefer.from_labels(tasks(), Path("seen.txt")),
        UsageError,
        "--labels are compared with those that the tasks were trained on: give --run RUN, or --task-labels FILE with ",
    ),
    (
        lambda: prefer.from_labels(run_of_kind("sequential"), Path("seen.txt")),
        RunError,
        "its manifest has no label counts for task 'cars'. Give them as --task-labels FILE.",
    ),
    (
        lambda: embedded(vectors(0, 3), cars=vectors(1, 3), birds=vectors(2, 3)[:, :4], digits=vectors(3, 3)),
        DataError,
        "p.npy: task 'birds': the embeddings of the target have width 6, those of the task's samples 4. Encode both",
    ),
    (
        lambda: embedded(vectors(0, 3), cars=vectors(1, 3), birds=vectors(2, 3)),
        DataError,
        "t.npz: there is no array for task 'digits'; it holds 'cars', 'birds'. Expected embeddings of the tasks' sampl",
    ),
    (
        lambda: embedded(vectors(0, 3), all=vectors(1, 3)),
        DataError,
        "t.npz: there is no array for task 'cars'; it holds 'all'. Expected embeddings of the tasks' samples: an .npz",
    ),
    (
        lambda: bare("target.txt", []),
        UsageError,
        "--inputs are compared with samples that the tasks were trained on: give --run RUN, or --task-samples DIR once",
    ),
    (
        lambda: bare("target.txt", ["samples", "samples"]),
        DataError,
        "samples are given for 2 tasks, and there are 3: c",
    ),
    (lambda: bare("lost", ["samples"]), DataError, "lost: no such file or folder; expected texts."),
    (
        lambda: prefer.from_inputs(None, Path("target.txt")),
        UsageError,
        "--inputs are encoded by the checkpoints: give --run RUN, or BASE TASK...",
    ),
    (
        lambda: prefer.from_inputs(None, spoil("p.npy", "x"), task_samples=[Path("samples")]),
        UsageError,
        "the tasks are not known: give --run RUN, BASE TASK..., or --task-samples TASKS.npz.",
    ),
    (lambda: bare("p.npz", []), UsageError, "p.npz holds embeddings: give those of the tasks' samples too, as --task-"),
    (
        lambda: bare("p.npy", ["samples"]),
        DataError,
        "p.npy holds embeddings, and samples/cars.txt does not. Give both as embeddings, or neither.",
    ),
    (
        lambda: prefer.from_inputs(
            Checkpoints(("cars",), None, Path("target.txt"), (Path("cars"),)),
            Path("target.txt"),
            task_samples=[Path("x")],
        ),
        UsageError,
        "which encoder are the checkpoints of? target.txt is a file of weights alone: give --model ID_OR_FOLDER.",
    ),
    (lambda: of_target(settings={"gamma": -1.0}), UsageError, "gamma: expected a number above zero"),
    (lambda: of_target(settings={"solver": "magic"}), UsageError, "solver 'magic' is not known; use sinkhorn, exact,"),
    (lambda: of_target(draws=3), UsageError, "draws: expected a whole number of at least 20 at level 0.9, found 3."),
    (lambda: run_of_kind("joint"), RunError, ".: a joint run has one checkpoint of all tasks, and nothing to merge."),
    (
        lambda: run_of_kind("ewc", done=False),
        RunError,
        ".: task 'cars' is not trained yet (1 of 1 are missing). Run th",
    ),
    (
        lambda: Checkpoints.of_paths(Path("base"), [Path("cars"), Path("cars")]),
        UsageError,
        "two tasks are called 'cars': cars and cars. Rename one.",
    ),
    (lambda: Checkpoints.of_paths(Path("base"), []), UsageError, "base is the base, and no task follows it"),
]


@pytest.mark.parametrize(("call", "kind", "said"), WRONG, ids=[said[:40] for _, _, said in WRONG])
def test_what_a_user_gets_wrong(
    call: Callable[[], object], kind: type[PrefmergeError], said: str, toys: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(kind) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert Reader.encoded == 0  # and nothing was done before
