"""Checkpoints with a classifier of their own: the prior goes into its bias, and the model answers by itself."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge.config import ModelConfig, make_config
from prefmerge.errors import ConfigError, DataError, EncoderError, PrefmergeError, UsageError
from prefmerge.merging.api import recipe_of, run
from prefmerge.models.encoders import load_encoder
from prefmerge.models.encoders.classifier import ClassifierEncoder
from prefmerge.target.fit import Fit
from prefmerge.target.own import addition
from prefmerge.target.prior import Prior
from prefmerge.target.source import open_source
from tests.oracles import target as oracle

pytest.importorskip("transformers", reason="adapt needs the extra places")
pytest.importorskip("sklearn", reason="adapt needs the extra places")

import torch
from PIL import Image

from prefmerge.target.adapt import adapt
from prefmerge.target.output import write
from prefmerge.target.result import Adapted, recipe
from tests.models.tiny import tiny_image_classifier, tiny_text_classifier
from tests.target.classifiers import TASKS, WORDS, World, make, sample


@pytest.fixture(scope="module", autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    """Models this small only wait for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return {kind: make(kind, tmp_path_factory.mktemp(kind)) for kind in WORDS}


@pytest.fixture(scope="module")
def outputs(worlds: dict[str, World]) -> dict[str, Adapted]:
    return {kind: adapt(world.asked(out=world.root / "out")) for kind, world in worlds.items()}


@pytest.fixture
def copied(worlds: dict[str, World], tmp_path: Path) -> World:
    """The texts, to be broken."""
    shutil.copytree(worlds["text"].root, tmp_path / "world", ignore=shutil.ignore_patterns("out*"))
    return World("text", tmp_path / "world")


def by_hand(made: Adapted, out: Path) -> dict[str, np.ndarray]:
    """The weights that the line of `merge` gives."""
    run(recipe(made), out, threads=1)
    return load_file(out / "model.safetensors")


def probes(kind: str) -> list[Any]:
    """Inputs that no class was drawn for, so that answers differ and are close."""
    rng = random.Random(7)
    if kind == "text":
        return ["".join(rng.choices("abcdefgh", k=8)) for _ in range(80)]
    noise = np.random.default_rng(7).integers(0, 256, (80, 16, 16, 3), np.uint8)
    flat = np.random.default_rng(8).integers(0, 256, (80, 1, 1, 3))
    return [Image.fromarray(one) for one in (0.3 * noise + 0.7 * flat).astype(np.uint8)]


def logits_of(folder: Path, kind: str) -> np.ndarray:
    """By transformers alone, from the folder's own preprocessing, one input at a time: (N, C) float64."""
    import transformers

    from prefmerge.models.encoders.images import image_processor

    logits = []
    if kind == "text":
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        batches = [dict(tokenizer(text, return_tensors="pt")) for text in probes(kind)]
    else:
        model = transformers.AutoModelForImageClassification.from_pretrained(folder)
        processor = image_processor(folder, "it")
        batches = [dict(processor(images=image, return_tensors="pt")) for image in probes(kind)]
    with torch.no_grad():
        for batch in batches:
            logits.append(model.eval()(**batch).logits[0].double().numpy())
    return np.stack(logits)


# The encoder


def test_the_embeddings_are_the_models_logits(worlds: dict[str, World]):
    for kind, world in worlds.items():
        encoder = load_encoder(ModelConfig(id=str(world.root / "second"), kind="classifier"))
        with torch.no_grad():
            logits = encoder.tower(**encoder.prepare(probes(kind))).numpy()
        np.testing.assert_allclose(logits, logits_of(world.root / "second", kind), atol=1e-5)
        assert encoder.width == 4
        assert encoder.phrases(["a"]) is None


def test_the_features_are_what_the_last_layer_takes(worlds: dict[str, World]):
    for kind, world in worlds.items():
        encoder = load_encoder(ModelConfig(id=str(world.root / "base"), kind="classifier"))
        assert isinstance(encoder, ClassifierEncoder)
        features = encoder.features()
        assert features.width == 16
        features.load(world.root / "second")
        weights = load_file(world.root / "second" / "model.safetensors")
        with torch.no_grad():
            embeddings = features.tower(**features.prepare(probes(kind))).numpy()
        logits = embeddings @ weights["classifier.weight"].T + weights["classifier.bias"]
        np.testing.assert_allclose(logits, logits_of(world.root / "second", kind), atol=1e-5)


SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}


@pytest.mark.parametrize(
    ("kind", "settings", "bias"),
    [
        ("Bert", {}, "classifier.bias"),
        ("Roberta", {}, "classifier.out_proj.bias"),
        ("GPT2", {"bos_token_id": 0, "eos_token_id": 0}, None),  # `score`, a layer without a bias
        ("ViT", None, "classifier.bias"),
        ("Swin", SWIN, "classifier.bias"),
        ("ResNet", RESNET, "classifier.1.bias"),
    ],
)
@pytest.mark.parametrize("classes", [3, 16])  # 16: as wide as a layer, so that every layer's bias has that many numbers
def test_the_bias_is_the_one_that_moves_the_logits(
    tmp_path: Path, kind: str, settings: dict[str, Any] | None, bias: str | None, classes: int
):
    names = [f"class {i}" for i in range(classes)]
    maker = tiny_text_classifier if kind in ("Bert", "Roberta", "GPT2") else tiny_image_classifier
    folder = maker(tmp_path / kind, names, kind=kind, **(settings or {}))
    encoder = load_encoder(ModelConfig(id=str(folder), kind="classifier"))
    assert isinstance(encoder, ClassifierEncoder)
    assert encoder.bias == bias
    assert (encoder.features() is encoder) == (bias is None)
    stored, state = load_file(folder / "model.safetensors"), encoder.state()
    assert bias is None or bias in stored
    assert all(np.array_equal(state[name].numpy(), values) for name, values in stored.items())  # trying left no trace


def test_the_backbone_is_still_what_training_takes(worlds: dict[str, World]):
    for world in worlds.values():
        assert load_encoder(ModelConfig(id=str(world.root / "base"))).width == 16
    with pytest.raises(ConfigError, match="model: kind classifier is for `adapt`"):
        make_config({"model": {"id": "x", "kind": "classifier"}, "data": "y"})


# What comes out


@pytest.mark.parametrize("kind", WORDS)
def test_the_bias_takes_prior_and_fit_and_nothing_else_changes(
    worlds: dict[str, World], outputs: dict[str, Adapted], tmp_path: Path, kind: str
):
    world, made = worlds[kind], outputs[kind]
    assert made.choice is not None
    assert made.added is not None
    hand, ours = by_hand(made, tmp_path / "hand"), load_file(world.root / "out" / "model.safetensors")
    shares = made.evidence.shares
    ones = [[int(c in own) for c in range(4)] for own in TASKS.values()]
    a = oracle.log_prior(list(TASKS.values()), shares.shares.tolist(), [9, 3, 1, 0], ones, 0.05)
    fit = made.choice.fit
    assert fit.rows is None
    assert fit.beta != 1
    for c in range(4):
        added = np.float32((a[c] + fit.bias[c]) / fit.beta)
        assert made.added.values[c] == pytest.approx(added, abs=1e-6)
        assert ours["classifier.bias"][c] == hand["classifier.bias"][c] + made.added.values[c]
    assert {name for name in hand if hand[name].tobytes() != ours[name].tobytes()} == {"classifier.bias"}


@pytest.mark.parametrize("kind", WORDS)
def test_from_pretrained_gives_the_answers_that_were_judged(
    worlds: dict[str, World], outputs: dict[str, Adapted], tmp_path: Path, kind: str
):
    made = outputs[kind]
    assert made.choice is not None
    by_hand(made, tmp_path / "hand")
    z, fit = logits_of(tmp_path / "hand", kind), made.choice.fit
    judged = (fit.beta * z + made.prior.logits + fit.bias).argmax(axis=1)
    answers = logits_of(worlds[kind].root / "out", kind)
    np.testing.assert_array_equal(answers.argmax(axis=1), judged)
    assert np.any(judged != z.argmax(axis=1))  # or nothing was tested
    np.testing.assert_allclose(answers, z + made.added.values if made.added else z, atol=1e-5)


@pytest.mark.parametrize("kind", WORDS)
def test_the_folder_is_whole_and_says_what_was_added(worlds: dict[str, World], outputs: dict[str, Adapted], kind: str):
    out, made = worlds[kind].root / "out", outputs[kind]
    assert made.added is not None
    assert made.head is None
    assert not (out / "head.safetensors").exists()
    report = prefmerge.verify(out, rerun=True)
    assert "merging again gives the same tensors" in report.passed
    receipt = json.loads((out / "receipt.json").read_text())
    assert np.float32(receipt["added"]["classifier.bias"]).tobytes() == made.added.values.tobytes()
    assert any("added to the merged values: 'classifier.bias' (4 numbers)" in note for note in receipt["notes"])
    assert "To the merged values of classifier.bias, 4 numbers were added" in (out / "README.md").read_text()
    told = json.loads((out / "adapt.json").read_text())
    assert told["added"]["tensor"] == "classifier.bias"
    assert list(told["added"]["values"]) == list(WORDS[kind])
    assert told["choice"]["rows_l2"] is None
    page = (out / "report.html").read_text()
    assert "The prior is in the classifier&#x27;s bias (&#x27;classifier.bias&#x27;)" in page
    assert "The same weights by hand, without the prior in &#x27;classifier.bias&#x27;" in page
    assert str(out) not in page


def test_the_terminal_says_where_the_prior_is_and_how_to_use_the_model(
    outputs: dict[str, Adapted], capsys: pytest.CaptureFixture[str]
):
    from prefmerge.cli.adapt import adapted

    made = outputs["image"]
    adapted(made)
    shown, out = capsys.readouterr().out, made.parameters.out
    assert f"Output: {out} (weights, report.html)\n" in shown
    assert "The prior is in the classifier's bias ('classifier.bias'), so the model answers by itself.\n" in shown
    assert f'    from transformers import pipeline\n    pipeline("image-classification", model="{out}")(' in shown
    assert "The same weights by hand, without the prior in 'classifier.bias': prefmerge merge " in shown


def test_a_receipt_whose_numbers_were_changed_does_not_merge_to_the_same(outputs: dict[str, Adapted]):
    world = outputs["text"].parameters.out
    assert world is not None
    changed = world.with_name("out-changed")
    shutil.copytree(world, changed)
    file = changed / "receipt.json"
    receipt = json.loads(file.read_text())
    receipt["added"]["classifier.bias"][1] += 0.5
    file.write_text(json.dumps(receipt))
    with pytest.raises(PrefmergeError, match=r"merging again .* other elements in tensors: 'classifier.bias'"):
        prefmerge.verify(changed, rerun=True)


def test_the_two_lines_that_are_shown_work(worlds: dict[str, World], outputs: dict[str, Adapted]):
    out = worlds["text"].root / "out"
    shown = outputs["text"].use(str(out))
    assert shown is not None
    first, second = shown[1].splitlines()
    names: dict[str, Any] = {}
    exec(first, names)
    (said,) = eval(second, names)
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        answer = int(model(**tokenizer("a text", return_tensors="pt")).logits.argmax())
    assert said["label"] == WORDS["text"][answer]


def test_what_it_is_worth_is_told_with_and_without_the_prior(outputs: dict[str, Adapted]):
    for made in outputs.values():
        assert made.estimates is not None
        assert {row.how for row in made.estimates.rows} >= {"chosen", "as it is", "with the prior"}
        assert made.estimates.chosen.accuracy.value > 0.5  # of four classes, by trained models
        assert made.cost["forwards"] > 0


def test_without_the_prior_the_classifier_stays(worlds: dict[str, World], tmp_path: Path):
    made = adapt(worlds["text"].asked(out=tmp_path / "out", no_prior=True))
    hand, ours = by_hand(made, tmp_path / "hand"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(hand[name].tobytes() == ours[name].tobytes() for name in hand)
    assert "added" not in json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert not (tmp_path / "out" / "head.safetensors").exists()
    assert "no prior was added to its classifier" in (tmp_path / "out" / "report.html").read_text()


def test_a_narrow_output_takes_the_sum_in_float32_rounded_once_more(outputs: dict[str, Adapted], tmp_path: Path):
    from safetensors.torch import load_file as load_torch

    before = outputs["text"]
    made = replace(before, parameters=replace(before.parameters, dtype="bfloat16"))
    write(made, tmp_path / "out")
    run(recipe(made), tmp_path / "hand", threads=1)
    hand, ours = (load_torch(tmp_path / name / "model.safetensors")["classifier.bias"] for name in ("hand", "out"))
    assert made.added is not None
    assert torch.equal(ours, (hand.float() + torch.from_numpy(made.added.values)).bfloat16())
    prefmerge.verify(tmp_path / "out", rerun=True)


def test_a_second_call_resumes_from_the_cache_to_the_same_bytes(
    worlds: dict[str, World], outputs: dict[str, Adapted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    world = worlds["text"]

    counted = 0

    def interrupt(done: int, of: int, what: str) -> None:
        nonlocal counted
        counted += what.startswith("trying candidates") and done == of > 0
        if counted == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(world.asked(out=tmp_path / "out", no_cache=False), interrupt)
    assert not (tmp_path / "out").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.features")}
    assert kept
    adapt(world.asked(out=tmp_path / "out", no_cache=False))
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    ours, theirs = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "out", world.root / "out"))
    assert ours == theirs


def test_inputs_tell_the_shares_even_where_the_bases_classifier_knows_nothing(copied: World, tmp_path: Path):
    file = copied.root / "base" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "classifier.weight": 0 * weights["classifier.weight"]}, file, {"format": "pt"})
    rng = random.Random(3)
    (tmp_path / "inputs.txt").write_text("\n".join(sample("text", "ab", rng) for _ in range(30)) + "\n")
    made = adapt(copied.asked(labels=None, inputs=tmp_path / "inputs.txt"))
    assert made.evidence.shares.shares[0] > 0.8
    assert made.added is not None


# Laws


def test_the_answers_with_the_addition_are_those_of_the_fit():
    rng = np.random.default_rng(0)
    for beta in (0.02, 0.5, 1.0, 7.0, 50.0):
        prior, fit = Prior(np.ones((1, 5)) / 5, rng.standard_normal(5)), Fit(beta, rng.standard_normal(5))
        z = rng.standard_normal((500, 5)) * 3
        added = addition("b", prior, fit).values
        assert added.dtype == np.float32
        judged = beta * z + prior.logits + fit.bias
        gap = np.sort(judged, axis=1)
        clear = (gap[:, -1] - gap[:, -2]) > 1e-5 * beta  # the rest is rounding of float32
        np.testing.assert_array_equal((z + added).argmax(axis=1)[clear], judged.argmax(axis=1)[clear])


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_no_byte_depends_on_the_blocks(tmp_path: Path, dtype: str | None):
    rng, names = np.random.default_rng(0), ("base", "first", "second")
    for name in names:
        tensors = {"w": rng.standard_normal((5, 7)).astype(np.float32), "b": np.float32(rng.standard_normal(7))}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    base, *tasks = (tmp_path / f"{name}.safetensors" for name in names)
    added = {"b": np.linspace(-3, 20, 7, dtype=np.float32)}
    for i, (block, threads) in enumerate(((1 << 18, 1), (3, 2), (1, 1))):
        run(recipe_of(base, tasks, dtype=dtype), tmp_path / str(i), added=added, block=block, threads=threads)
    first, *others = (next((tmp_path / str(i)).glob("*.safetensors")).read_bytes() for i in range(3))
    assert all(first == other for other in others)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ({"gone.bias": np.zeros(4)}, "tensor 'gone.bias': 4 numbers are to be added, and there is none in the base"),
        ({"classifier.bias": np.zeros(5)}, r"5 numbers are to be added, and it has shape \(4,\) of float16"),
        ({"classifier.bias": np.full(4, 1e30)}, "the merged values and what is added to them do not fit float16"),
    ],
)
def test_what_cannot_be_added(worlds: dict[str, World], tmp_path: Path, added: dict[str, np.ndarray], told: str):
    base, *tasks = worlds["text"].checkpoints
    with pytest.raises(PrefmergeError, match=told):
        run(recipe_of(base, tasks, dtype="float16"), tmp_path / "out", added=added, threads=1)
    assert not (tmp_path / "out").exists()


# What a user gets wrong


def refused(world: World, error: type[PrefmergeError], told: str, **given: Any) -> None:
    with pytest.raises(error, match=told):
        adapt(world.asked(out=world.root / "refused", **given))
    assert not (world.root / "refused").exists()


def test_labels_that_the_classifier_does_not_have(copied: World):
    file = copied.root / "samples" / "first.csv"
    file.write_text(file.read_text().replace(",ab", ",xy"))
    refused(copied, DataError, r"the label 'xy' \(first at .*\) is not among the 4 classes 'ab', 'cd'.*gh'.$")


def test_classes_without_names(copied: World):
    generic = {str(i): f"LABEL_{i}" for i in range(4)}
    for name in ("base", *TASKS):
        copied.change(name, id2label=generic, label2id={name: int(i) for i, name in generic.items()})
    refused(copied, DataError, r"config.json has no names for its classes, so they are called LABEL_0, LABEL_1, \.\.\.")
    for task in TASKS:
        file = copied.root / "samples" / f"{task}.csv"
        for i, name in enumerate(WORDS["text"]):
            file.write_text(file.read_text().replace(f",{name}", f",LABEL_{i}"))
    (copied.root / "seen.csv").write_text("label\nLABEL_0\nLABEL_1\n")
    source = open_source(copied.asked())
    assert source.tasks.classes == tuple(generic.values())


def test_a_class_without_samples(copied: World):
    file = copied.root / "samples" / "first.csv"
    file.write_text(file.read_text().replace(",ab", ",cd"))
    refused(copied, DataError, "hold no sample of the classifier's class 'ab', so it is not known which task")
    file.write_text(file.read_text().replace(",cd", ",ef"))
    refused(copied, DataError, r"class 'ab' \(nor of 1 more of its 4 classes\), so it is not known")


def test_a_task_with_other_classes(copied: World):
    copied.change("second", id2label={str(i): name for i, name in enumerate(("cd", "ab", "ef", "gh"))})
    refused(copied, UsageError, "second: class 0 is 'cd' in its config.json, and 'ab' in that of the base")
    copied.change("second", id2label={"0": "ab", "1": "cd", "2": "ef"})
    refused(
        copied, UsageError, "second: its classifier has 3 classes, that of the base .* has 4. Give checkpoints that"
    )


def test_a_task_that_is_a_file_with_another_size_of_classifier(copied: World):
    tiny_text_classifier(copied.root / "other", ("ab", "cd", "ef"))
    shutil.copy(copied.root / "other" / "model.safetensors", copied.root / "third.safetensors")
    (copied.root / "samples" / "third.csv").write_text((copied.root / "samples" / "first.csv").read_text())
    given = (*copied.checkpoints, copied.root / "third.safetensors")
    refused(
        copied, PrefmergeError, r"'classifier.weight' has shape \(3, 16\), the model's has \(4, 16\)", checkpoints=given
    )


def test_a_classifier_without_a_bias(copied: World):
    for seed, name in enumerate(("base", *TASKS)):
        shutil.rmtree(copied.root / name)
        tiny_text_classifier(copied.root / name, WORDS["text"], seed, "GPT2", bos_token_id=0, eos_token_id=0)
    refused(
        copied, UsageError, "its classifier has no bias, which is where the target's prior would go. Give --no-prior"
    )
    made = adapt(copied.asked(out=copied.root / "out", no_prior=True))
    assert (made.added, made.head) == (None, None)
    prefmerge.verify(copied.root / "out")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"problem_type": "multi_label_classification"}, "has problem_type 'multi_label_classification', expected"),
        ({"id2label": {"0": "LABEL_0"}}, "has 1 class in id2label, expected two or more"),
        ({"id2label": {"0": "ab", "1": "ab"}}, "has two classes called 'ab' in id2label"),
        ({"id2label": {"0": "ab", "2": "cd"}}, r"numbers its classes \[0, 2\]"),
        ({"id2label": ["ab", "cd"]}, "has an id2label that is not number -> name"),
        ({"id2label": {"zero": "ab"}}, "has an id2label that is not number -> name"),
    ],
)
def test_classifiers_of_another_kind(copied: World, entries: dict[str, Any], told: str):
    copied.change("base", **entries)
    refused(copied, EncoderError, told)


def test_a_model_without_a_classifier_needs_a_head(copied: World):
    for name in ("base", *TASKS):
        copied.change(name, architectures=["BertModel"])
    refused(copied, UsageError, "give --head FILE.* has no classifier of its own: its config.json names no")


def test_without_samples_of_the_tasks(copied: World):
    refused(copied, UsageError, r"nothing says which classes each task has. Give --task-samples PATH", task_samples=[])


def test_samples_of_the_other_kind(copied: World, worlds: dict[str, World]):
    refused(
        copied, DataError, "is a folder; texts with labels are a CSV", task_samples=[worlds["image"].root / "samples"]
    )
