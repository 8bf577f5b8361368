"""Checkpoints that call the base's tensors otherwise: what is matched, what is left out, what is refused and how.

The numbers are those of reports from the field. `State`: float32 arrays by name.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from prefmerge import merge, merge_state_dicts, plan, verify
from prefmerge.checkpoints import from_state_dict
from prefmerge.cli.app import app
from prefmerge.errors import CheckpointMismatch
from prefmerge.merging.matching import match
from prefmerge.merging.mismatch import explained
from prefmerge.merging.recipe import Recipe
from prefmerge.merging.sameness import Sameness

State = dict[str, np.ndarray]
LAYERS = ("query", "key", "value", "dense")


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def encoder(seed: int) -> State:
    """Two layers with one shape for all their weights, embeddings and a norm."""
    names = [f"encoder.layer.{i}.attention.{part}.weight" for i in range(2) for part in LAYERS]
    state = {name: floats(100 * seed + i, 4, 4) for i, name in enumerate(names)}
    return {
        "embeddings.word.weight": floats(100 * seed + 50, 9, 4),
        "embeddings.LayerNorm.weight": floats(100 * seed + 51, 4),
        "embeddings.LayerNorm.bias": floats(100 * seed + 52, 4),
        **state,
    }


def named(state: State, how: Callable[[str], str]) -> State:
    return {how(name): value for name, value in state.items()}


def taken(base: State, tasks: list[State], **given: Any) -> tuple[State, list[str]]:
    merged, receipt = merge_state_dicts(base, tasks, names=["cars", "birds"], **given)
    return merged, list(receipt.notes)


def same(state: State, other: State) -> bool:
    return {name: value.tobytes() for name, value in state.items()} == {n: v.tobytes() for n, v in other.items()}


BASE, CARS, BIRDS = encoder(0), encoder(1), encoder(2)
PLAIN = merge_state_dicts(BASE, [CARS, BIRDS], names=["cars", "birds"])[0]


def refused(base: State, tasks: list[State], **given: Any) -> str:
    with pytest.raises(CheckpointMismatch) as caught:
        taken(base, tasks, **given)
    assert len(str(caught.value)) <= 1500
    return str(caught.value)


def flags(message: str) -> dict[str, Any]:
    """The flags that a message tells to add, as a shell would hand them over."""
    words = shlex.split(re.findall(r"add[^:]*: (--.*) - then", message)[0])
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return {what: [value for flag, value in pairs if flag == f"--{what}"] for what in ("rename", "exclude")}


# 6a: a prefix that all tensors have, added or removed


@pytest.mark.parametrize(
    "prefix",
    ["model._orig_mod.", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "net.", "0.auto_model.", "a.b._orig_mod.c."],
)
@pytest.mark.parametrize("wrapped", ["tasks", "base", "one task", "all"])
def test_case_6a_a_prefix_of_all_tensors(prefix: str, wrapped: str) -> None:
    def put(state: State) -> State:
        return named(state, lambda name: prefix + name)

    base = put(BASE) if wrapped in ("base", "all") else BASE
    cars = put(CARS) if wrapped in ("tasks", "all") else CARS
    birds = put(BIRDS) if wrapped in ("tasks", "all", "one task") else BIRDS
    merged, notes = taken(base, [cars, birds])
    if wrapped in ("base", "all"):  # the name keys the random choices: those of the base count
        expected = merge_state_dicts(put(BASE), [put(CARS), put(BIRDS)], names=["cars", "birds"])[0]
    else:
        expected = PLAIN
    assert same(merged, expected)
    assert bool(notes) == (wrapped != "all")
    assert all("task 'birds'" in note and ("task 'cars'" in note) == (wrapped != "one task") for note in notes)


def test_case_6a_a_lightning_file_over_a_folder(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "base").mkdir()
    save_file(BASE, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    for name, state in (("cars", CARS), ("birds", BIRDS)):
        tensors = {f"model._orig_mod.{key}": torch.from_numpy(value) for key, value in state.items()}
        torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / f"{name}.ckpt")
    receipt = merge(tmp_path / "base", [tmp_path / "cars.ckpt", tmp_path / "birds.ckpt"], tmp_path / "out")
    assert same(load_file(tmp_path / "out" / "model.safetensors"), PLAIN)
    assert list(receipt.notes) == [
        "the wrapper '_orig_mod.' is left out of the tensor names in task 'cars', task 'birds'.",
        "'model.' in front of the tensor names is left out in task 'cars', task 'birds'.",
    ]
    verify(tmp_path / "out", inputs=True, rerun=True)


@pytest.mark.parametrize(
    "how",
    [
        lambda name: name.replace("layer.0.", "layer.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
        lambda name: name.replace("encoder.", "encoder.module."),
        lambda name: name.replace("layer.", "net.layer."),
        lambda name: re.sub(r"(layer\.\d)", r"\1.inner", name),
        lambda name: re.sub(r"attention\.(\w+)\.", r"attention.\1._orig_mod.", "model." + name),
        lambda name: "module.model." + re.sub(r"(layer\.\d)", r"\1.inner", name),
    ],
)
@pytest.mark.parametrize("of_base", [False, True])
def test_case_6a_in_the_middle_of_a_name(how: Callable[[str], str], of_base: bool) -> None:
    base, tasks = BASE, [CARS, BIRDS]
    if of_base:
        base = named(BASE, how)
        expected = merge_state_dicts(base, [named(task, how) for task in tasks], names=["cars", "birds"])[0]
    else:
        tasks, expected = [named(task, how) for task in tasks], PLAIN
    merged, notes = taken(base, tasks)
    assert same(merged, expected)
    assert notes


def test_case_6a_another_prefix_in_each_task_and_in_the_base() -> None:
    base = named(BASE, lambda name: f"model.{name}")
    merged, notes = taken(
        base, [named(CARS, lambda name: f"net.{name}"), named(BIRDS, lambda name: f"module.bert.{name}")]
    )
    expected = merge_state_dicts(
        base, [named(state, lambda name: f"model.{name}") for state in (CARS, BIRDS)], names=["cars", "birds"]
    )[0]
    assert same(merged, expected)
    assert any("'net.'" in note and "'cars'" in note and "'birds'" not in note for note in notes)
    assert any("'bert.'" in note and "'birds'" in note and "'cars'" not in note for note in notes)


# 6b, 6c: an encoder inside a model with a head


HEADS = {
    "classifier.weight": floats(7, 3, 4),
    "classifier.bias": floats(8, 3),
    "cls.predictions.transform.dense.weight": floats(9, 4, 4),
    "qa_outputs.weight": floats(10, 2, 4),
    "lm_head.weight": floats(11, 9, 4),
    "score.weight": floats(12, 3, 4),
    "head.fc.weight": floats(13, 3, 4),
    "heads.0.weight": floats(13, 3, 4),
}


@pytest.mark.parametrize("prefix", ["net.", "bert.", "transformer.", "model.", "roberta.", ""])
def test_case_6b_6c_a_prefix_and_heads_that_only_tasks_have(prefix: str) -> None:
    tasks = [{**named(state, lambda name: prefix + name), **HEADS} for state in (CARS, BIRDS)]
    merged, notes = taken(BASE, tasks)
    assert same(merged, PLAIN)
    assert any(note.startswith("left out, for the base has none: 8 head tensors ('classifier.bias'") for note in notes)
    pooled = {**tasks[0], f"{prefix}pooler.dense.weight": floats(14, 4, 4)}
    assert same(taken(BASE, [pooled, tasks[1]])[0], PLAIN)


@pytest.mark.parametrize(
    "extra",
    [
        "encoder.layer.2.attention.query.weight",
        "encoder.layer.0.attention.head.weight",
        "encoder.layer.0.classifier.weight",
        "adapter.weight",
        "2.weight",
        "fc3.weight",
        "head",
        "embeddings.word.bias",
        "base_model.gate_A.weight",
    ],
)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_case_6b_weights_of_the_trunk_are_not_left_out(extra: str, prefix: str) -> None:
    cars = named({**CARS, extra: floats(3, 4, 4)}, lambda name: prefix + name)
    message = refused(BASE, [cars, BIRDS])
    assert f"has 1 tensors that the base lacks: '{prefix}{extra}'" in message
    assert same(taken(BASE, [cars, BIRDS], **flags(message))[0], PLAIN)


def test_case_6c_a_layer_that_a_task_lacks_is_an_error() -> None:
    cars = {f"bert.{name}": value for name, value in CARS.items() if "layer.1" not in name}
    message = refused(BASE, [cars, BIRDS])
    assert "task 'cars' (cars) lacks 4 of the base's tensors: 'encoder.layer.1.attention.dense.weight'" in message
    assert flags(message) == {"rename": [], "exclude": ["encoder.layer.1.*"]}
    assert "then 7 of the base's 11 tensors are merged" in message
    merged, _ = taken(BASE, [cars, BIRDS], **flags(message))
    assert merged["encoder.layer.1.attention.key.weight"].tobytes() == (
        BASE["encoder.layer.1.attention.key.weight"].tobytes()
    )


@pytest.mark.parametrize("second", ["model_ema.", "teacher.model."])
def test_case_6b_two_tensors_for_one_name_are_an_error_that_shows_both(second: str) -> None:
    cars = {**named(CARS, lambda name: f"model.{name}"), **named(BIRDS, lambda name: second + name)}
    message = refused(BASE, [cars, BIRDS])
    assert f"'model.embeddings.LayerNorm.bias', '{second}embeddings.LayerNorm.bias'" in message
    assert same(taken(BASE, [cars, BIRDS], **flags(message))[0], PLAIN)


def test_case_6b_shapes_must_agree() -> None:
    cars = named({**CARS, "embeddings.word.weight": floats(1, 8, 4)}, lambda name: f"net.{name}")
    message = refused(BASE, [cars, BIRDS])
    assert "tensor 'embeddings.word.weight' has shape (8, 4), the base has (9, 4)" in message
    assert flags(message)["exclude"] == ["embeddings.word.*"]


def test_case_6c_a_wrapped_classifier_over_a_bare_encoder() -> None:
    """The encoder's prefix has several modules, and the head has the first of them."""
    cars = named({**named(CARS, lambda name: f"bert.{name}"), **HEADS}, lambda name: f"model._orig_mod.{name}")
    merged, notes = taken(BASE, [cars, BIRDS])
    assert same(merged, PLAIN)
    assert "8 head tensors" in notes[-1]
    cars["model._orig_mod.adapter.weight"] = floats(1, 4, 4)
    assert "lacks: 'model._orig_mod.adapter.weight'" in refused(BASE, [cars, BIRDS])


@pytest.mark.parametrize(
    ("base", "task"),
    [
        (["layers.0.attn.w", "layers.1.attn.w"], ["layers.1.attn.w", "layers.2.attn.w"]),
        (["m.q.lin.weight", "m.k.lin.weight"], ["m.k.lin.weight", "m.v.lin.weight"]),
        (["q.weight", "k.weight"], ["v.weight", "o.weight"]),
        (["attn.w", "layers.0.attn.w"], ["layers.0.attn.w", "layers.1.attn.w"]),
        (["layers.0.attn.w", "layers.1.attn.w"], ["layers.0.attn.w", "attn.w"]),
    ],
)
def test_case_6b_one_layer_is_not_taken_for_another(base: list[str], task: list[str]) -> None:
    states = [{name: floats(seed + i, 4, 4) for i, name in enumerate(names)} for seed, names in ((0, base), (9, task))]
    with pytest.raises(CheckpointMismatch, match=r"lacks . of the base's tensors and has . tensors that"):
        merge_state_dicts(states[0], states[1:])


# 6f: --rename


def files(folder: Path, base: State, *tasks: State) -> tuple[Path, list[Path]]:
    paths = [folder / f"{name}.safetensors" for name in ("base", "cars", "birds")[: len(tasks) + 1]]
    for path, state in zip(paths, (base, *tasks), strict=True):
        save_file(state, path)
    return paths[0], paths[1:]


def own_words(name: str) -> str:
    return name.replace("query", "q_proj").replace("key", "k_proj").replace("encoder.layer", "blocks")


RENAMES = [r"^blocks\b=encoder.layer", r"\bq_proj\b=query", r"\bk_proj\b=key"]


# 6h: buffers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embeddings.position_ids", np.arange(8)[None]),
        ("h.0.attn.masked_bias", np.array(-1e4, np.float32)),
        ("h.0.attn.bias", np.tril(np.ones((1, 1, 8, 8), np.float32))),
        ("layers.0.rotary_emb.inv_freq", floats(0, 4)),
        ("encoder.norm.num_batches_tracked", np.array(3)),
        ("encoder.layer.0.attn_mask", floats(1, 4, 4)),
        ("encoder.layer.0.relative_position_index", np.arange(8)),
        ("encoder.layer.0.table", np.array([True, False])),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model._orig_mod."])
def test_case_6h_buffers_that_the_base_lacks(name: str, value: np.ndarray, prefix: str) -> None:
    cars = named({**CARS, name: value}, lambda name: prefix + name)
    merged, notes = taken(BASE, [cars, BIRDS])
    assert same(merged, PLAIN)
    assert notes[-1] == f"left out, for the base has none: 1 buffer ('{prefix}{name}') in task 'cars'."


def test_case_6h_a_trained_bias_is_no_mask() -> None:
    assert "lacks: 'encoder.layer.0.attn.bias'" in refused(
        BASE, [{**CARS, "encoder.layer.0.attn.bias": floats(1, 4)}, BIRDS]
    )


def test_case_6h_float_buffers_that_tasks_lack_are_kept() -> None:
    base = {**BASE, "layers.0.rotary_emb.inv_freq": floats(0, 4)}
    merged, receipt = merge_state_dicts(base, [CARS, {**BIRDS, "layers.0.rotary_emb.inv_freq": floats(1, 4)}])
    assert merged["layers.0.rotary_emb.inv_freq"].tobytes() == base["layers.0.rotary_emb.inv_freq"].tobytes()
    assert receipt.tensors["layers.0.rotary_emb.inv_freq"].role == "copied"
    assert receipt.notes[0] == (
        "kept as the base has them: 1 buffer ('layers.0.rotary_emb.inv_freq') lacking in task 'task-1'."
    )


def test_case_6h_buffers_of_renamed_tasks_are_compared() -> None:
    base = {**BASE, "steps": np.array([1])}
    cars = named({**CARS, "steps": np.array([2])}, lambda name: f"net.{name}")
    assert any("'steps' holds int64 and differs in cars" in note for note in taken(base, [cars, BIRDS])[1])


# 2c: ties and other names at once


@pytest.mark.parametrize("stored", ["base", "tasks", "both"])
@pytest.mark.parametrize("prefix", ["net.", "module."])
def test_case_2c_ties_under_other_names(stored: str, prefix: str) -> None:
    def tied(state: State) -> State:
        return {**state, "decoder.weight": state["embeddings.word.weight"].copy()}

    base = BASE if stored == "tasks" else tied(BASE)
    tasks = [CARS, BIRDS] if stored == "base" else [tied(CARS), tied(BIRDS)]
    expected = merge_state_dicts(base, tasks, names=["cars", "birds"])[0]
    merged, notes = taken(base, [named(task, lambda name: prefix + name) for task in tasks])
    assert same(merged, expected)
    assert any("one tensor" in note for note in notes)


# Journey 21: the whole remedy at once


def test_journey_21_heads_of_another_size_layers_and_names_in_one_message() -> None:
    base = {**BASE, "classifier.weight": floats(1, 3, 4), "classifier.bias": floats(2, 3)}
    cars = {**named(CARS, own_words), "classifier.weight": floats(3, 5, 4), "classifier.bias": floats(4, 5)}
    birds = {**BIRDS, "classifier.weight": floats(3, 7, 4), "classifier.bias": floats(4, 7), "extra.w": floats(5, 3)}
    message = refused(base, [cars, birds])
    for said in (
        "task 'cars' (cars) lacks 8 of the base's tensors and has 8 tensors that the base lacks:",
        "tensor 'classifier.weight' has shape (5, 4), the base has (3, 4)",
        "task 'birds' (birds) has 1 tensors that the base lacks: 'extra.w'",
        "shape (7, 4)",
    ):
        assert said in message
    assert re.search(r"encoder\.layer\.0\.attention\.query\.weight +blocks\.0\.attention\.q_proj\.weight", message)
    assert re.search(r"encoder\.layer\.0\.attention\.key\.weight +blocks\.0\.attention\.k_proj\.weight", message)
    given = flags(message)
    assert sorted(given["exclude"]) == ["classifier.*", "extra.*"]
    merged, _ = taken(base, [cars, birds], **given)
    assert same({name: value for name, value in merged.items() if name in PLAIN}, PLAIN)
    assert merged["classifier.bias"].tobytes() == base["classifier.bias"].tobytes()


def test_journey_21_the_flags_work_when_typed(tmp_path: Path) -> None:
    tasks = [{**named(state, own_words), "it's.[odd].weight": floats(1, 2)} for state in (CARS, BIRDS)]
    base, paths = files(tmp_path, {**BASE, "cls.weight": floats(1, 2), "cls.bias": floats(1, 3)}, *tasks)
    command = ["plan", *map(str, (base, *paths))]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    words = shlex.split(re.findall(r"add: (--.*) - then", result.output)[0])
    assert CliRunner().invoke(app, [*command, *words]).exit_code == 0
    with plan(base, paths, **flags(result.output)) as planned:
        assert len(planned.of_role("merge")) == len(BASE)


def test_journey_21_a_heads_prefix_in_the_base_only() -> None:
    base = {**named(BASE, lambda name: f"bert.{name}"), "cls.weight": floats(70, 4, 4), "cls.bias": floats(71, 4)}
    message = refused(base, [CARS, BIRDS])
    assert "lacks 2 of the base's tensors: 'cls.bias', 'cls.weight'." in message
    assert flags(message) == {"rename": [], "exclude": ["cls.*"]}
    taken(base, [CARS, BIRDS], **flags(message))


def test_journey_21_flags_that_were_given_are_said_again() -> None:
    tasks = [named(state, own_words) for state in (CARS, BIRDS)]
    message = refused(BASE, tasks, rename=RENAMES[:1])
    assert "add (in the place of those given): --rename '^blocks" in message
    assert same(taken(BASE, tasks, **flags(message))[0], PLAIN)


def test_journey_21_two_models_that_have_nothing_in_common() -> None:
    message = refused(BASE, [{f"x{i}.{'y' * 3000}": floats(i, 3) for i in range(40)}, BIRDS])
    assert "no few --rename and --exclude would make these match" in message


# Any wrapping, and many tensors


SEGMENTS = st.sampled_from(["module", "_orig_mod", "_fsdp_wrapped_module", "net", "model", "bert", "backbone", "x"])


@settings(max_examples=40, deadline=None)
@given(front=st.lists(SEGMENTS, max_size=3), middle=st.lists(SEGMENTS, max_size=2), layer=st.booleans())
def test_wrapped_checkpoints_merge_to_the_same_bytes(front: list[str], middle: list[str], layer: bool) -> None:
    def wrap(name: str) -> str:
        name = re.sub(r"(layer\.\d\.)" if layer else r"(attention\.)", r"\1" + "".join(f"{m}." for m in middle), name)
        return "".join(f"{module}." for module in front) + name

    assert same(taken(BASE, [named(CARS, wrap), BIRDS])[0], PLAIN)


@pytest.mark.parametrize("how", [lambda name: f"model._orig_mod.{name}", lambda name: name.replace("w1", "up_proj")])
def test_sixty_thousand_tensors_are_matched_in_seconds(how: Callable[[str], str]) -> None:
    values = np.arange(60_000, dtype=np.float32)
    experts = [f"layers.{i}.experts.{j}" for i in range(100) for j in range(200)]
    names = [f"{expert}.{weight}.weight" for expert in experts for weight in ("w1", "w2", "w3")]
    base = {name: values[i : i + 1] for i, name in enumerate(names)}
    opened, task = from_state_dict(base, name="base"), from_state_dict(named(base, how), name="cars")
    recipe, sameness = Recipe(), Sameness()
    began = time.process_time()
    (result,) = match(recipe, opened, [task], ["cars"], sameness)
    if result.wrong:
        message = explained(
            recipe, opened, [task], [result], lambda other: match(other, opened, [task], ["cars"], sameness)
        )
        assert flags(message) == {"rename": [r"\bup_proj\b=w1"], "exclude": []}
    else:
        assert result.own["layers.7.experts.8.w2.weight"] == "model._orig_mod.layers.7.experts.8.w2.weight"
    assert time.process_time() - began < 10


def test_a_merge_of_classifiers_over_a_bare_bert_loads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    encoder = transformers.BertModel(config)
    encoder.save_pretrained(tmp_path / "base")
    states = []
    for name in ("cars", "birds"):
        model = transformers.BertForSequenceClassification(config)
        model.bert.load_state_dict(encoder.state_dict())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        states.append(model.bert.state_dict())
    wrapped = {f"model._orig_mod.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "birds.ckpt")
    receipt = merge(tmp_path / "base", [tmp_path / "cars", tmp_path / "birds.ckpt"], tmp_path / "out", method="average")
    verify(tmp_path / "out", inputs=True, rerun=True)
    assert sum("2 head tensors" in note for note in receipt.notes) == 2
    loaded, info = transformers.BertModel.from_pretrained(
        tmp_path / "out", local_files_only=True, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
