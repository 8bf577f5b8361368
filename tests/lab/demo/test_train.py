"""The demo's run is `prefmerge.training`'s: its regime, its tasks, its seeds; the same bytes for a seed."""

# ruff: noqa: E402  (imports that need an extra come after asking for it)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo trains with torch (extra demo)")
pytest.importorskip("accelerate", reason="training is accelerate's (extra demo)")
pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (extra demo)")

from prefmerge.config import make_config
from prefmerge.lab.demo.digits import NAMES, TASKS, Digits, load_digits
from prefmerge.lab.demo.model import load_base
from prefmerge.lab.demo.train import REGIME, configuration, fine_tune_in_sequence
from prefmerge.runs import Run
from prefmerge.training.job import TrainingProgress
from prefmerge.training.steps import fine_tune

QUICK = REGIME.model_copy(update={"learning_rate": 1e-3, "epochs": 1, "batch": 16})


@pytest.fixture(scope="module")
def few() -> Digits:
    """The digits with 40 training images: 8 a task or so."""
    digits = load_digits()
    return Digits(digits.pixels, digits.labels, {**digits.parts, "train": digits.parts["train"][::25]})


def trained(out: Path, digits: Digits, seed: int) -> Run:
    return fine_tune_in_sequence(*load_base(), digits, out, seed, QUICK)


def checkpoints(run: Run) -> list[bytes]:
    return [(run.task_path(t) / "model.safetensors").read_bytes() for t in range(len(TASKS))]


def test_a_seed_gives_the_same_bytes_on_any_number_of_threads(few: Digits, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = checkpoints(trained(tmp_path / "one", few, 5))
        torch.set_num_threads(2)
        two = checkpoints(trained(tmp_path / "two", few, 5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert one == two
    assert len(set(one)) == len(TASKS)
    assert checkpoints(trained(tmp_path / "other", few, 6))[0] != one[0]


def test_a_task_learns_its_two_digits_from_the_one_before(few: Digits, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", few, 2)
    assert run.training == "sequential"
    assert [(task.name, task.classes) for task in run.tasks] == [
        (name, tuple(str(y) for y in classes)) for name, classes in zip(NAMES, TASKS, strict=True)
    ]
    encoder, head = load_base()
    for t, classes in enumerate(TASKS):
        encoder.load(run.base_path if t == 0 else run.task_path(t - 1))
        ids = few.ids("train", t)
        assert {int(y): n for y, n in run.tasks[t].label_counts.items()} == few.label_counts(ids)
        fine_tune(encoder, head, few.examples(ids), classes, QUICK, epochs=1, seed=2000 + t)
        found = encoder.read(run.task_path(t))
        assert all(torch.equal(found[name], w) for name, w in encoder.state().items())


def test_the_configuration_says_everything_and_reads_back() -> None:
    import yaml

    config = configuration(3)
    assert make_config(yaml.safe_load(config.to_yaml())) == config
    regime = config.training
    assert (regime.method, regime.weight_decay, regime.clip_norm) == ("sequential", 0.1, 1.0)  # both papers
    # Without these the bytes would depend on the machine.
    assert (regime.device, regime.threads, regime.fused, regime.precision) == ("cpu", 1, False, "no")
    assert config.seed == 3


def test_examples_are_the_images_of_their_numbers(few: Digits) -> None:
    ids = few.ids("train", 3)
    examples = few.examples(ids)
    assert examples.ids == tuple(f"digit-{i}" for i in ids)
    assert examples.labels.tolist() == [int(few.labels[i]) for i in ids]
    for at in (0, len(ids) - 1):
        (image,) = examples.read([at])
        np.testing.assert_array_equal(image, few.pixels[ids[at]][None])
    assert examples.fingerprint([0, 1]) == few.examples(ids[:2]).fingerprint([0, 1]) != examples.fingerprint([1, 0])


def test_a_run_from_before_images_were_kept_goes_on(few: Digits, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def heard(now: TrainingProgress) -> None:
        if now.done:
            raise Stop

    with pytest.raises(Stop):
        fine_tune_in_sequence(*load_base(), few, tmp_path / "run", 5, QUICK, progress=heard)
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("held_out: 40\n", ""))
    assert checkpoints(trained(tmp_path / "run", few, 5)) == checkpoints(trained(tmp_path / "new", few, 5))
