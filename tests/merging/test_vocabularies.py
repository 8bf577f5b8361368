"""Models whose vocabularies differ: rows of one token are merged with one another, and everything else says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import prefmerge
from prefmerge.errors import CheckpointMismatch, RecipeError, UsageError, VerificationFailed
from prefmerge.merging.api import recipe_of, run
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.recipe_file import read_recipe
from tests.golden.make_vocabularies import (
    CHATML,
    IM_END,
    IM_START,
    MERGES,
    NEW,
    TOOL,
    WORDS,
    save_model,
    tokenizer_json,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "vocabularies"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TENSORS = [EMBEDDINGS, HEAD]
TASKS = ["cars", "birds"]
LINEAR: dict[str, Any] = {"method": "task_arithmetic", "weights": [0.6, 0.7]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with base, cars and birds, whose vocabularies differ in order and in size."""
    for name in ("base", *TASKS):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path


def ids(folder: Path) -> dict[str, int]:
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return whole["model"]["vocab"] | {token["content"]: token["id"] for token in whole["added_tokens"]}


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def rows(folder: Path, tensor: str = EMBEDDINGS) -> dict[str, np.ndarray]:
    """Token -> its row."""
    state = weights(folder)[tensor]
    return {token: state[at] for token, at in ids(folder).items() if at < len(state)}


def merged(models: Path, out: str = "out", tasks: list[str] | None = None, **given: Any) -> Path:
    tasks = TASKS if tasks is None else tasks
    prefmerge.merge(models / "base", [models / task for task in tasks], models / out, **given)
    return models / out


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def permuted(models: Path, name: str, seed: int) -> None:
    """The model with the ids of its words in another order."""
    whole = json.loads((models / name / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = whole["model"]["vocab"]
    order = np.random.default_rng(seed).permutation(len(vocab))
    whole["model"]["vocab"] = {token: int(order[at]) for token, at in vocab.items()}
    (models / name / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    state = weights(models / name)
    for tensor in TENSORS:
        if tensor in state:
            moved = state[tensor].copy()
            moved[order] = state[tensor][: len(order)]
            state[tensor] = moved
    save_file(state, models / name / "model.safetensors", metadata={"format": "pt"})


# Against mergekit


@pytest.mark.parametrize("recipe", sorted(GOLDEN.glob("*.yml")), ids=lambda path: path.stem)
def test_what_mergekit_makes_of_it(recipe: Path, tmp_path: Path) -> None:
    run(read_recipe(recipe), tmp_path / "out")
    ours, theirs = weights(tmp_path / "out"), load_file(GOLDEN / "outputs" / f"{recipe.stem}.safetensors")
    kept = json.loads((GOLDEN / "outputs" / f"{recipe.stem}.json").read_text(encoding="utf-8"))
    own = ids(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == kept["vocab_size"]
    assert own.keys() == kept["ids"].keys()  # mergekit numbers new tokens in the order of a set
    tokens = sorted(own)
    for name, values in theirs.items():
        mine = ours[name]
        if name in TENSORS:
            pairs = [(mine[own[token]], values[kept["ids"][token]]) for token in tokens]
            pairs += list(zip(mine[len(own) :], values[len(own) :], strict=True))  # padding
            mine, values = (np.array(side) for side in zip(*pairs, strict=True))
        np.testing.assert_allclose(mine, values, rtol=0, atol=1e-6, err_msg=name)


# What a row is


def test_a_union_has_the_tokens_of_all_and_each_row_is_what_the_definition_says(models: Path) -> None:
    out = merged(models, tokenizer="union", **LINEAR)
    at = ids(out)
    assert {token: at[token] for token in ids(models / "base")} == ids(models / "base")
    assert sorted(at.values()) == list(range(42))
    assert at.keys() == {*ids(models / "base"), "".join(NEW), IM_END, IM_START, TOOL}
    for tensor in TENSORS:
        base, cars, birds = (rows(models / name, tensor) for name in ("base", *TASKS))
        made = rows(out, tensor)
        for token in base:
            expected = base[token] + 0.6 * (cars[token] - base[token]) + 0.7 * (birds[token] - base[token])
            np.testing.assert_allclose(made[token], expected, atol=1e-6)
        np.testing.assert_array_equal(made[IM_START], cars[IM_START])  # of the one that has it
        np.testing.assert_array_equal(made[TOOL], birds[TOOL])
        np.testing.assert_array_equal(made["".join(NEW)], birds["".join(NEW)])
        mean = (cars[IM_END] + birds[IM_END]) / 2  # the base lacks it
        np.testing.assert_allclose(
            made[IM_END], mean + 0.6 * (cars[IM_END] - mean) + 0.7 * (birds[IM_END] - mean), atol=1e-6
        )


def test_a_tokenizer_that_splits_texts_otherwise_is_noted(models: Path) -> None:
    lower = {"type": "Lowercase"}
    edit(models / "birds" / "tokenizer.json", lambda whole: whole | {"normalizer": lower})
    given: dict[str, Any] = {"tokenizer": "union", **LINEAR}
    receipt = prefmerge.merge(models / "base", [models / task for task in TASKS], models / "out", **given)
    [note] = [note for note in receipt.notes if "normalise" in note]
    assert note.startswith("the output's tokenizer does not normalise texts as that of birds, so texts of birds may")


def test_of_a_token_that_the_base_has_and_a_task_lacks_the_task_has_the_base_s_row(models: Path) -> None:
    edit(models / "cars" / "tokenizer.json", lambda whole: _without(whole, "dog"))
    made, base, birds = merged(models, tokenizer="base", **LINEAR), rows(models / "base"), rows(models / "birds")
    expected = base["dog"] + 0.7 * (birds["dog"] - base["dog"])
    np.testing.assert_allclose(rows(made)["dog"], expected, atol=1e-6)
    mean = merged(models, "mean", tokenizer={"source": "base", "missing": "mean"}, **LINEAR)
    middle = (base["dog"] + birds["dog"]) / 2
    expected = base["dog"] + 0.6 * (middle - base["dog"]) + 0.7 * (birds["dog"] - base["dog"])
    np.testing.assert_allclose(rows(mean)["dog"], expected, atol=1e-6)


def _without(whole: dict[str, Any], token: str) -> dict[str, Any]:
    del whole["model"]["vocab"][token]
    whole["model"]["merges"] = [merge for merge in whole["model"]["merges"] if merge.replace(" ", "") != token]
    return whole


def test_tokens_says_whose_rows_are_taken(models: Path) -> None:
    tokens = {
        IM_END: {"source": "birds"},
        "dog": {"source": "cars", "force": True},
        IM_START: {"source": {"kind": "model_token", "model": "base", "token_id": 3}},
        "<|new|>": {"source": {"kind": "zero"}},
        "cat": {"source": {"kind": "model_token", "model": "cars", "token": "car"}, "force": True},
    }
    out = merged(models, tokenizer={"source": "cars", "tokens": tokens, "pad_to_multiple_of": 64}, **LINEAR)
    made, base, cars, birds = (rows(folder) for folder in (out, models / "base", models / "cars", models / "birds"))
    at = ids(out)
    assert {token: at[token] for token in ids(models / "cars")} == ids(models / "cars")
    assert (at["<|new|>"], at["cat"]) == (40, 41)
    missing = birds[IM_END]
    np.testing.assert_allclose(made[IM_END], missing + 0.6 * (cars[IM_END] - missing), atol=1e-6)
    third = weights(models / "base")[EMBEDDINGS][3]
    np.testing.assert_allclose(made[IM_START], third + 0.6 * (cars[IM_START] - third), atol=1e-6)
    np.testing.assert_array_equal(made["dog"], cars["dog"])
    np.testing.assert_array_equal(made["cat"], cars["car"])
    assert not made["<|new|>"].any()
    state = weights(out)[EMBEDDINGS]
    assert state.shape[0] == 64 == json.loads((out / "config.json").read_text())["vocab_size"]
    np.testing.assert_allclose(state[42:], np.broadcast_to(state[:42].mean(axis=0), (22, 8)), atol=1e-6)
    assert "dog" in base  # in the base too, whose row it is not


# Laws


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "tunable_magmax", "slerp", "dare_ties"])
def test_a_vocabulary_in_another_order_changes_nothing(models: Path, method: str) -> None:
    tasks = ["first"] if method == "slerp" else ["first", "second"]
    rng = np.random.default_rng(5)
    for name in ("first", "second"):
        save_model(models / name, rng, tokenizer_json(WORDS, MERGES, []), 38)
    state = weights(models / "base")
    save_file({k: v[:38].copy() if k in TENSORS else v for k, v in state.items()}, models / "base/model.safetensors")
    plain = merged(models, "plain", tasks, method=method)
    for seed, name in enumerate(tasks):
        permuted(models, name, seed)
    again = merged(models, "again", tasks, method=method, tokenizer="base")
    assert (plain / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


@pytest.mark.parametrize("source", ["union", "base", "cars"])
def test_one_vocabulary_is_a_plain_merge(models: Path, source: str) -> None:
    rng = np.random.default_rng(6)
    for name in ("base", "cars", "birds"):
        save_model(models / name, rng, tokenizer_json(WORDS, MERGES, [IM_END]), 48)  # with rows to spare
    plain, again = merged(models, "plain"), merged(models, "again", tokenizer=source)
    assert (plain / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    notes = json.loads((again / "receipt.json").read_text())["notes"]
    told = "the vocabulary is that of cars: 39 tokens, 48 rows."
    told = told if source == "cars" else "--tokenizer-source has no effect: all models have the base's vocabulary."
    assert told in notes
    assert (plain / "config.json").read_bytes() == (again / "config.json").read_bytes()


@pytest.mark.parametrize("method", ["ties", "tunable_magmax", "linear", "della"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_no_block_and_no_thread_changes_a_bit(models: Path, method: str, dtype: str) -> None:
    if dtype == "BF16":
        for name in ("base", "birds"):
            state = {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in weights(models / name).items()}
            _save_bits(state, models / name / "model.safetensors")
    recipe = recipe_of(
        models / "base", [models / task for task in TASKS], method=method, tokenizer={"pad_to_multiple_of": 16}
    )
    digests = {
        run(recipe, models / f"out-{block}-{threads}", block=block, threads=threads).fingerprint
        for block, threads in ((1, 1), (7, 2), (4096, 1), (1 << 18, 3))
    }
    assert len(digests) == 1


def _save_bits(state: Mapping[str, np.ndarray], path: Path) -> None:
    """A safetensors file of bfloat16, which NumPy has no type for."""
    header: dict[str, Any] = {}
    at = 0
    for name, bits in state.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [at, at + bits.nbytes]}
        at += bits.nbytes
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(bits.tobytes() for bits in state.values()))


# Receipts


def test_the_receipt_verifies_and_makes_the_same_again(models: Path) -> None:
    out = merged(models, tokenizer={"source": "union", "tokens": {TOOL: {"source": "birds", "force": True}}})
    report = prefmerge.verify(out, inputs=True, rerun=True)
    assert "base: content fingerprint" in report.passed
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["recipe"]["tokenizer"]["tokens"] == {TOOL: {"source": "birds", "force": True}}
    assert receipt["tensors"][EMBEDDINGS]["shape"] == [42, 8]
    plain = merged(models, "plain", ["cars"], exclude=["*"])  # what the base's fingerprint is without any of this
    assert (
        receipt["inputs"]["base"]["fingerprint"]
        == json.loads((plain / "receipt.json").read_text())["inputs"]["base"]["fingerprint"]
    )


@pytest.mark.parametrize("name", ["base", "cars", "birds"])
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_change_of_any_row_shows(models: Path, name: str, tensor: str) -> None:
    """Of rows that were not merged too, such as those of tokens that the output does not have."""
    out = merged(models, tokenizer="base")
    state = weights(models / name)
    state[tensor][-1, -1] += 1
    save_file(state, models / name / "model.safetensors")
    with pytest.raises(VerificationFailed, match="is not what was merged"):
        prefmerge.verify(out, inputs=True)


def test_who_gives_a_row_was_read(models: Path) -> None:
    """A task of no weight, of which only one row is in the output."""
    out = merged(models, method="linear", weights=[1, 0], base_weight=1, tokenizer="union")
    receipt = json.loads((out / "receipt.json").read_text())
    assert [task["covers"] for task in receipt["inputs"]["tasks"]] == ["content", "content"]


# The output


def test_the_output_loads_and_a_text_goes_there_and_back(models: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    out = merged(models, tokenizer={"source": "union", "pad_to_multiple_of": 64}, chat_template="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.get_vocab() == ids(out)
    text = f"{IM_START}car bird dog{IM_END}{TOOL}"
    coded = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(coded) == [IM_START, "car", "Ġbird", "Ġ", "dog", IM_END, TOOL]
    assert tokenizer.decode(coded) == text
    assert tokenizer.chat_template == CHATML
    assert model.get_input_embeddings().weight.shape == (64, 8)
    np.testing.assert_array_equal(
        model.get_input_embeddings().weight.detach().numpy()[coded[0]], rows(models / "cars")[IM_START]
    )
    logits = model(torch.tensor([coded])).logits
    assert logits.shape == (1, len(coded), 64)


def test_the_config_has_the_ids_of_the_tokenizer(models: Path) -> None:
    (models / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": 37, "top_k": 5}))
    edit(models / "cars" / "config.json", lambda config: {**config, "eos_token_id": [37, 38]})
    out = merged(models, tokenizer="cars")
    config = json.loads((out / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (40, [37, 38])
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [37, 38], "top_k": 5}
    assert ids(out) == ids(models / "cars")
    notes = json.loads((out / "receipt.json").read_text())["notes"]
    assert "the tokenizer is that of task 'cars'." in notes
    edit(models / "base" / "config.json", lambda config: {**config, "pad_token_id": 3, "bad_token_id": [4, None]})
    edit(models / "cars" / "config.json", lambda config: {**config, "eos_token_id": None})
    config = json.loads((merged(models, "again", tokenizer="cars") / "config.json").read_text())
    at = ids(models / "cars")  # what cars does not say is that of the same token of the base
    assert config["pad_token_id"] == at[WORDS[3]]
    assert config["bad_token_id"] == [at[WORDS[4]], None]
    assert config["eos_token_id"] == at["</s>"]


def test_older_files_of_a_tokenizer_that_was_extended_are_left_out(models: Path) -> None:
    (models / "base" / "vocab.json").write_text("{}")
    (models / "base" / "merges.txt").write_text("")
    decoder = {"37": {"content": "</s>", "special": True}}
    edit(models / "base" / "tokenizer_config.json", lambda config: {**config, "added_tokens_decoder": decoder})
    out = merged(models, tokenizer="union")
    assert not (out / "vocab.json").exists()
    assert not (out / "merges.txt").exists()
    known = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {token["content"]: int(at) for at, token in known.items()} == {
        token: at for token, at in ids(out).items() if token in ("</s>", IM_END, IM_START, TOOL)
    }
    same = merged(models, "same", tokenizer="base")
    assert (same / "vocab.json").exists()


def test_tied_heads_stay_tied(models: Path) -> None:
    rng = np.random.default_rng(7)
    shuffled = WORDS[::-1]
    save_model(models / "base", rng, tokenizer_json(WORDS, MERGES, []), 38, tied=True)
    save_model(models / "cars", rng, tokenizer_json(shuffled, MERGES, [IM_END]), 39, tied=True)
    save_model(models / "birds", rng, tokenizer_json(WORDS, MERGES, []), 38, tied=True)
    state = weights(models / "birds")  # the same stored twice
    save_file({**state, HEAD: state[EMBEDDINGS].copy()}, models / "birds" / "model.safetensors")
    out = merged(models, tokenizer="union", **LINEAR)
    assert HEAD not in weights(out)
    assert weights(out)[EMBEDDINGS].shape == (39, 8)
    np.testing.assert_array_equal(rows(out)[IM_END], rows(models / "cars")[IM_END])


def test_an_adapter_has_the_vocabulary_of_its_base(models: Path) -> None:
    """Its change belongs to the base's rows; of tokens that the base lacks it changes nothing."""
    rng = np.random.default_rng(8)
    folder = models / "lora"
    folder.mkdir()
    a, b = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((2, 48), (8, 2)))
    config = {"peft_type": "LORA", "lora_alpha": 2, "r": 2, "target_modules": ["embed_tokens"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.embed_tokens.lora_embedding"
    save_file({f"{name}_A": a, f"{name}_B": b}, folder / "adapter_model.safetensors")
    out = merged(models, "out", ["lora", "cars"], tokenizer="cars", **LINEAR)
    base, cars, made = rows(models / "base"), rows(models / "cars"), rows(out)
    change = {token: (b @ a).T[at] for token, at in ids(models / "base").items()}
    for token in base:
        expected = base[token] + 0.6 * change[token] + 0.7 * (cars[token] - base[token])
        np.testing.assert_allclose(made[token], expected, atol=1e-6)
    np.testing.assert_array_equal(made[IM_END], cars[IM_END])
    assert prefmerge.verify(out, inputs=True, rerun=True)
    tokens = {IM_END: {"source": {"kind": "model_token", "model": "lora", "token": "car"}}}
    with pytest.raises(CheckpointMismatch, match=r"rows of lora are needed .*, and it is an adapter or a task vector"):
        merged(models, "no", ["lora", "cars"], tokenizer={"source": "cars", "tokens": tokens})


def test_biases_and_wordpiece_too(models: Path) -> None:
    """A BERT: a head tied to the embeddings, with biases of its own; and a bias of one row, as BART's."""
    rng = np.random.default_rng(9)
    pieces = ["[UNK]", "[PAD]", "car", "##s", "bird", "dog"]
    of = {"base": pieces, "cars": [*pieces[::-1], "##y", "cat"]}
    for name, words in of.items():
        shutil.rmtree(models / name)
        (models / name).mkdir()
        model = {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: at for at, word in enumerate(words)},
        }
        whole = {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": model,
        }
        (models / name / "tokenizer.json").write_text(json.dumps(whole))
        (models / name / "vocab.txt").write_text("\n".join(words) + "\n")
        (models / name / "config.json").write_text(json.dumps({"text_config": {"vocab_size": len(words)}}))
        n = len(words)
        shapes = {
            "bert.embeddings.word_embeddings.weight": (n, 4),
            "bert.embeddings.token_type_embeddings.weight": (2, 4),
            "cls.predictions.bias": (n,),
            "cls.predictions.decoder.weight": (n, 4),
            "final_logits_bias": (1, n),
            "output.dense.weight": (n, 4),  # of a layer, which happens to be as large
        }
        state = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        state["output.dense.weight"] = rng.normal(size=(6, 4)).astype(np.float32)
        save_file(state, models / name / "model.safetensors")
    out = merged(models, "out", ["cars"], method="last", tokenizer="union")
    at, made, cars = ids(out), weights(out), weights(models / "cars")
    assert list(at) == [*pieces, "##y", "cat"]
    order = [ids(models / "cars")[token] for token in at]
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "cls.predictions.decoder.weight"):
        np.testing.assert_allclose(made[name], cars[name][order], atol=1e-6)  # the base and back: one rounding
    np.testing.assert_allclose(made["final_logits_bias"], cars["final_logits_bias"][:, order], atol=1e-6)
    np.testing.assert_allclose(made["output.dense.weight"], cars["output.dense.weight"], atol=1e-6)
    assert json.loads((out / "config.json").read_text()) == {"text_config": {"vocab_size": 8}}
    tokenizers = pytest.importorskip("tokenizers")
    coded = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).encode("carsy cat")
    assert coded.tokens == ["car", "##s", "##y", "cat"]
    assert coded.ids == [at[token] for token in coded.tokens]


def test_several_candidates_from_one_reading(models: Path) -> None:
    scales = [{"method": "task_arithmetic", "scale": scale, "tokenizer": "union"} for scale in (0.5, 1)]
    with Candidates(models / "base", [models / task for task in TASKS]) as candidates:
        several = candidates.models(scales)
    for given, made in zip(scales, several, strict=True):
        out = merged(models, f"at {given['scale']}", **given)
        np.testing.assert_array_equal(made[EMBEDDINGS], weights(out)[EMBEDDINGS])


# Rows of models without tokenizers


@pytest.mark.parametrize(("name", "size"), [("base", 48), ("cars", 40), ("birds", 64)])
def test_rows_from(models: Path, name: str, size: int) -> None:
    out = merged(models, rows_from=name, **LINEAR)
    for tensor in TENSORS:
        base, cars, birds = (weights(models / one)[tensor] for one in ("base", *TASKS))
        made = weights(out)[tensor]
        assert made.shape == (size, 8)
        expected = base[:40] + 0.6 * (cars[:40] - base[:40]) + 0.7 * (birds[:40] - base[:40])
        np.testing.assert_allclose(made[:40], expected, atol=1e-6)
        np.testing.assert_array_equal(made[40:], weights(models / name)[tensor][40:])
    assert json.loads((out / "config.json").read_text())["vocab_size"] == size
    assert ids(out) == ids(models / name)  # and its tokenizer
    assert prefmerge.verify(out, inputs=True, rerun=True)


def test_rows_from_a_model_in_memory() -> None:
    base = {"embed_tokens.weight": np.zeros((4, 2), np.float32), "w": np.ones(3, np.float32)}
    task = {"embed_tokens.weight": np.ones((6, 2), np.float32), "w": np.ones(3, np.float32) * 2}
    made, receipt = prefmerge.merge_state_dicts(base, [task], rows_from="task-1", method="last")
    assert made["embed_tokens.weight"].shape == (6, 2)
    assert made["embed_tokens.weight"].all()
    told = "embeddings have 6 rows: the first 4 are merged, the others are those of task-1."
    assert told in receipt.notes


def test_tokenizer_from_composes_with_rows_from(models: Path) -> None:
    out = merged(models, rows_from="birds", tokenizer_from="birds")
    assert weights(out)[EMBEDDINGS].shape == (64, 8)
    assert ids(out) == ids(models / "birds")
    with pytest.raises(CheckpointMismatch, match="--tokenizer-from cars: its vocabulary has 40 tokens"):
        merged(models, "no", rows_from="birds", tokenizer_from="cars")
    with pytest.raises(UsageError, match="--tokenizer-from and --tokenizer-source both say which tokenizer"):
        merged(models, "no", tokenizer="union", tokenizer_from="cars")


# Chat templates


def test_chat_templates(models: Path) -> None:
    def of(name: str, template: str) -> str | None:
        out = merged(models, name, chat_template=template, rows_from="base")
        config = json.loads((out / "tokenizer_config.json").read_text())
        notes = json.loads((out / "receipt.json").read_text())["notes"]
        told = {"auto": "that of most models", "name": "that of cars", "text": "the one that was given"}
        assert f"the chat template is {told.get(name, template)}." in notes or name == "file"
        assert (out / "chat_template.jinja").read_text() == config["chat_template"]
        return config["chat_template"]

    assert of("auto", "auto") == CHATML
    assert of("name", "cars") == CHATML
    assert of("text", "{{ messages }}") == "{{ messages }}"
    assert "<|im_start|>assistant" in (of("chatml", "chatml") or "")
    (models / "birds" / "chat_template.jinja").write_text("{{ birds }}")
    assert of("file", "birds") == "{{ birds }}"
    with pytest.raises(CheckpointMismatch, match="--chat-template: base has no chat template"):
        merged(models, "no", chat_template="base", rows_from="base")
    with pytest.raises(RecipeError, match=r"'catml' is no chat template that prefmerge has.*Did you mean 'chatml'\?"):
        merged(models, "no", chat_template="catml", rows_from="base")
