"""Tensors that are stored twice, or under one name of two, are one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefmerge import PrefmergeError, merge, merge_state_dicts, verify
from prefmerge.merging import sameness
from prefmerge.merging.candidates import Candidates
from tests.merging.test_what_a_file_is import EMBED, HEAD, floats, llama, owned, save


def llamas(folder: Path, **options: Any) -> tuple[Path, list[Path]]:
    base, *tasks = [save(folder / name, llama(i, **options)) for i, name in enumerate(("base", "cars", "birds"))]
    return base, tasks


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_case_2a_embeddings_stored_twice_are_merged_once(tmp_path: Path, scope: Literal["tensor", "model"]):
    base, tasks = llamas(tmp_path)
    receipt = merge(base, tasks, tmp_path / "out.safetensors", selection="paper", scope=scope)
    out = load_file(tmp_path / "out.safetensors")
    assert out[HEAD].tobytes() == out[EMBED].tobytes()
    # Shared elements, which a state dict shows, give the same bytes: the same name keys the random choices.
    shared = [llama(i) for i in range(3)]
    for state in shared:
        state[HEAD] = state[EMBED]
    expected, other = merge_state_dicts(shared[0], shared[1:], selection="paper", scope=scope)
    assert expected[HEAD] is expected[EMBED]
    assert {name: value.tobytes() for name, value in expected.items()} == {n: v.tobytes() for n, v in out.items()}
    row = receipt.to_json()["tensors"][EMBED]
    assert (row["role"], row["tied_to"]) == ("tied", HEAD)
    assert other.to_json()["tensors"][EMBED] == row
    assert receipt.to_json()["elements"]["tied"] == 512
    assert sum(owned(receipt)) == receipt.to_json()["elements"]["merged"] == 512 + 8 + 512
    assert receipt.to_json()["notes"] == [
        "'model.embed_tokens.weight' equals 'lm_head.weight' in the base and in every task: they are one tensor, "
        "merged once and written under each name."
    ]
    assert other.to_json()["notes"] == []
    verify(tmp_path / "out.safetensors", inputs=True, rerun=True)
    with Candidates(base, tasks) as candidates:
        model = candidates.model(selection="paper", scope=scope)
        assert {name: value.tobytes() for name, value in model.items()} == {n: v.tobytes() for n, v in out.items()}


def test_case_2a_copies_in_memory_stay_arrays_of_their_own():
    base, *tasks = [llama(i) for i in range(3)]
    merged, _ = merge_state_dicts(base, tasks)
    assert merged[HEAD] is not merged[EMBED]
    assert merged[HEAD].tobytes() == merged[EMBED].tobytes()


def test_case_2a_three_names_in_half_precision_and_a_task_vector_are_one_tensor_too(tmp_path: Path):
    names = ("shared.weight", "encoder.embed.weight", "decoder.embed.weight")
    base, tasks = llamas(tmp_path, names=names, dtype=np.float16)
    merge(base, tasks[:1], tmp_path / "vector.safetensors", method="last", as_task_vector=True)
    receipt = merge(base, [tmp_path / "vector.safetensors", tasks[1]], tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    assert len({out[name].tobytes() for name in names}) == 1
    assert receipt.to_json()["elements"]["tied"] == 2 * 512
    assert receipt.to_json()["notes"] == [
        "'encoder.embed.weight' equals 'decoder.embed.weight', 'shared.weight' equals 'decoder.embed.weight' in the "
        "base and in every task: they are one tensor, merged once and written under each name."
    ]


@pytest.mark.parametrize("where", ["base", "task"])
def test_case_2a_copies_that_differ_in_one_element_somewhere_are_two_tensors(where: str):
    """The element lies between the slices that are compared first."""
    base, *tasks = [{"a": floats(i, 5000), "b": floats(i, 5000), "c": floats(i + 9, 5000)} for i in range(3)]
    (base if where == "base" else tasks[1])["b"][700] += 1
    assert merge_state_dicts(base, tasks)[1].to_json()["notes"] == []
    (base if where == "base" else tasks[1])["b"][700] = (base if where == "base" else tasks[1])["a"][700]
    notes = merge_state_dicts(base, tasks)[1].to_json()["notes"]
    assert [note.partition(" in the base")[0] for note in notes] == ["'b' equals 'a'"]


def test_case_2a_copies_that_no_task_changes_are_copied_without_a_word():
    base, *tasks = [llama(i) for i in range(3)]
    for task in tasks:
        task |= {name: base[name].copy() for name in (EMBED, HEAD)}
    merged, receipt = merge_state_dicts(base, tasks)
    assert receipt.to_json()["notes"] == []
    assert receipt.to_json()["tensors"][EMBED]["role"] == receipt.to_json()["tensors"][HEAD]["role"] == "unchanged"
    assert merged[EMBED].tobytes() == base[EMBED].tobytes()
    # Lone elements and fresh norms are equal by chance.
    states = [{"a": np.full(1, i, np.float32), "b": np.full(1, i, np.float32), "w": floats(i, 4)} for i in range(3)]
    assert merge_state_dicts(states[0], states[1:])[1].to_json()["elements"]["tied"] == 0


@pytest.mark.parametrize("aliased", [False, True])
def test_case_2c_a_tied_base_takes_tasks_that_store_a_copy(aliased: bool):
    base, *tasks = [llama(i) for i in range(3)]
    if aliased:
        base[HEAD] = base[EMBED]
        merged, receipt = merge_state_dicts(base, tasks, names=["cars", "birds"])
        assert merged[HEAD] is merged[EMBED]
        assert receipt.to_json()["tensors"][EMBED]["role"] == "tied"
        assert receipt.to_json()["notes"][0].startswith(
            "'model.embed_tokens.weight' equals 'lm_head.weight' in the base"
        )
        return
    del base[HEAD]
    merged, receipt = merge_state_dicts(base, tasks, names=["cars", "birds"])
    assert HEAD not in merged
    assert receipt.to_json()["notes"] == [
        "'lm_head.weight', which the base does not name, is a copy of 'model.embed_tokens.weight' in task 'cars', "
        "task 'birds': they are taken for one tensor."
    ]
    plain = [{name: value for name, value in task.items() if name != HEAD} for task in tasks]
    assert merge_state_dicts(base, plain)[0][EMBED].tobytes() == merged[EMBED].tobytes()


def test_case_2c_a_task_may_store_one_name_of_what_the_base_stores_twice():
    base, first, second = (llama(i) for i in range(3))
    whole, _ = merge_state_dicts(base, [first, second])
    for dropped in (HEAD, EMBED):
        some = {name: value for name, value in second.items() if name != dropped}
        kept = EMBED if dropped == HEAD else HEAD
        merged, receipt = merge_state_dicts(base, [first, some], names=["cars", "birds"])
        assert {name: value.tobytes() for name, value in merged.items()} == {n: v.tobytes() for n, v in whole.items()}
        assert receipt.to_json()["tensors"][EMBED]["role"] == "tied"
        assert receipt.to_json()["notes"][0] == (
            f"{dropped!r}, a copy of {kept!r} in the base, is lacking in task 'birds': they are taken for one tensor."
        )


def test_case_2c_what_is_equal_by_chance_explains_no_missing_and_no_additional_tensor():
    """Norms that nothing has trained are all ones, and so equal to any other of their size."""
    state = {"a.norm": np.ones(300, np.float32), "b.norm": np.ones(300, np.float32), "w": floats(0, 300)}
    with pytest.raises(PrefmergeError, match=r"lacks 1 of the base's tensors: 'b.norm'"):
        merge_state_dicts(state, [{name: state[name] for name in ("a.norm", "w")}])
    with pytest.raises(PrefmergeError, match=r"has 1 tensors that the base lacks: 'b.norm'"):
        merge_state_dicts({name: state[name] for name in ("a.norm", "w")}, [state])
    with pytest.raises(PrefmergeError, match=r"has 1 tensors that the base lacks: 'head'"):
        merge_state_dicts(state, [{**state, "head": np.r_[state["w"][:-1], np.float32(7)]}])


def test_candidates_compare_values_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, tasks = llamas(tmp_path)
    read: list[int] = []
    blocks = sameness._blocks
    monkeypatch.setattr(sameness, "_blocks", lambda size: read.append(size) or blocks(size))
    with Candidates(base, tasks) as candidates:
        candidates.check()
        assert read
        read.clear()
        candidates.models([{}, {"method": "average"}, {"exclude": ("model.norm.*",)}])
    assert read == []
