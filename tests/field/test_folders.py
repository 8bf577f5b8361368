"""Folders as caches, trainers and libraries leave them, names of tasks, outputs that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prefmerge import PrefmergeError, merge, open_checkpoint, plan, verify
from prefmerge.checkpoints.paths import names_of
from prefmerge.cli import app
from prefmerge.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    OutputExists,
)
from prefmerge.merging.candidates import Candidates
from tests.field.made import State, assert_is, files, message, note, put, state, write

# 4: what the output needs


def test_case_4a_files_that_a_tokenizer_needs_come_along(tmp_path: Path) -> None:
    base = put(tmp_path / "base" / "model.safetensors", state(0)).parent
    names = ["spm.model", "tekken.json", "entity_vocab.json", "code/layers/attention.py", "config.json"]
    for name in names:
        write(base / name)
    task = put(tmp_path / "task.safetensors", state(1))
    merge(base, [task], tmp_path / "out")
    assert files(tmp_path / "out") == sorted([*names, "README.md", "model.safetensors", "receipt.json"])


@pytest.mark.parametrize(
    "name",
    ["diffusion_pytorch_model.safetensors", "open_clip_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
)
def test_case_4d_the_name_of_the_bases_weights_is_kept(tmp_path: Path, name: str) -> None:
    base, task = (put(tmp_path / who / name, state(seed)).parent for seed, who in enumerate(("base", "task")))
    merge(base, [task], tmp_path / "out")
    assert (tmp_path / "out" / name).is_file()


# 9a: caches of the hub


def cache(folder: Path, snapshots: Mapping[str, int], main: str | None = None, name: str = "models--org--cars") -> Path:
    """A cache as huggingface_hub makes it: snapshots of links to blobs."""
    home = folder / name
    for revision, seed in snapshots.items():
        blob = put(home / "blobs" / f"{seed:040x}", state(seed))
        (home / "snapshots" / revision).mkdir(parents=True)
        (home / "snapshots" / revision / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)
    if main is not None:
        write(home / "refs" / "main", main)
    return home


def test_case_9a_the_snapshot_of_main_is_meant(tmp_path: Path) -> None:
    home = cache(tmp_path, {"abc": 1, "def": 2}, "def")
    assert_is(home, state(2))
    opened = open_checkpoint(home)
    assert (opened.name, opened.path, opened.notes) == ("cars", home / "snapshots" / "def", ())
    base = put(tmp_path / "base.safetensors", state(0))
    merge(base, [home], tmp_path / "out.safetensors", method="increments")
    assert_is(tmp_path / "out.safetensors", state(2))
    write(home / "refs" / "main", "abc")  # a later download
    assert "task 'cars': content fingerprint" in verify(tmp_path / "out.safetensors", inputs=True).passed


def test_case_9a_the_only_snapshot_is_meant(tmp_path: Path) -> None:
    assert_is(cache(tmp_path, {"abc": 1}), state(1))
    assert_is(cache(tmp_path, {"abc": 1}, "gone", "models--org--other"), state(1))


def test_case_9a_what_cannot_be_decided_is_an_error(tmp_path: Path) -> None:
    home = cache(tmp_path, {"abc": 1, "def": 2})
    said = message(home)
    assert "with 2 snapshots, none of them that of main: abc, def. Name the one you mean" in said
    assert_is(said.rpartition("for instance ")[2].rstrip("."), state(1))
    empty = tmp_path / "models--org--empty"
    (empty / "blobs").mkdir(parents=True)
    assert "hf download org/empty" in message(empty)
    assert "a cache of the Hugging Face hub with models--org--cars" in message(tmp_path)


@pytest.mark.parametrize("main", ["../../secret", "/etc", "..", "abc/../../..", "\0", "x" * 5000])
def test_case_9a_a_reference_leads_nowhere_else(tmp_path: Path, main: str) -> None:
    put(tmp_path / "secret" / "model.safetensors", state(9))
    home = cache(tmp_path, {"abc": 1, "def": 2}, main)
    assert "none of them that of main" in message(home)


# 9b: outputs of trainers


@pytest.mark.parametrize("name", ["checkpoint-500", "checkpoint_3", "epoch_2", "step-1000", "last-checkpoint"])
def test_case_9b_the_only_checkpoint_is_taken(tmp_path: Path, name: str) -> None:
    output = tmp_path / "cars"
    put(output / name / "model.safetensors", state(1))
    write(output / name / "config.json", {"a": 1})
    write(output / name / "optimizer.pt")
    write(output / "runs" / "events.out.tfevents.1.host")
    assert_is(output, state(1))
    assert note(output) == f"no weights in the folder itself: those in its sub-folder {name} are taken"
    assert open_checkpoint(output).name == "cars"
    task = put(tmp_path / "birds.safetensors", state(2))
    receipt = merge(output, [task], tmp_path / "out")
    assert f"base: {note(output)}." in receipt.notes
    assert files(tmp_path / "out") == ["README.md", "config.json", "model.safetensors", "receipt.json"]


def test_case_9b_of_several_the_user_chooses(tmp_path: Path) -> None:
    for step in (500, 1000, 1500):
        put(tmp_path / f"checkpoint-{step}" / "model.safetensors", state(step))
    write(tmp_path / "checkpoint-1500" / "trainer_state.json", {"best_model_checkpoint": "out/checkpoint-1000"})
    said = message(tmp_path)
    assert "3 checkpoints: checkpoint-500, checkpoint-1000, checkpoint-1500" in said
    assert "Its trainer calls checkpoint-1000 the best" in said
    assert said.endswith(f"for instance {tmp_path / 'checkpoint-1500'}.")


def test_case_9b_weights_of_its_own_win(tmp_path: Path) -> None:
    put(tmp_path / "model.safetensors", state(1))
    put(tmp_path / "checkpoint-500" / "model.safetensors", state(2))
    assert_is(tmp_path, state(1))
    assert open_checkpoint(tmp_path).notes == ()


def test_case_9b_adapters_runs_and_other_formats_are_named(tmp_path: Path) -> None:
    write(tmp_path / "lora" / "checkpoint-500" / "adapter_config.json")
    put(tmp_path / "lora" / "checkpoint-500" / "adapter_model.safetensors", state(1))
    with pytest.raises(CheckpointNotFound, match="checkpoint-500: a LoRA adapter"):
        open_checkpoint(tmp_path / "lora")
    write(tmp_path / "run" / "run.json", {"format": "prefmerge-run/1"})
    put(tmp_path / "run" / "base" / "model.safetensors", state(1))
    assert f"a run of `prefmerge finetune`, not a checkpoint. Give it as --run {tmp_path / 'run'}" in message(
        tmp_path / "run"
    )
    for name, what in {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax", "m.gguf": "GGUF"}.items():
        write(tmp_path / what / name)
        assert f"weights of {what}" in message(tmp_path / what)
    (tmp_path / "empty").mkdir()
    assert "It is empty" in message(tmp_path / "empty")


def test_case_9b_messages_stay_short_and_clean(tmp_path: Path) -> None:
    for i in range(20):
        put(tmp_path / f"\x1b[31m{'x' * 200}-{i}" / "model.safetensors", state(i))
    said = message(tmp_path)
    assert "\x1b" not in said.partition("for instance")[0]
    assert "and 14 more" in said


# 9c: states of sharded trainings


def test_case_9c_deepspeed(tmp_path: Path) -> None:
    """The folder of a trainer and the folder of the step, with and without the script beside it."""
    step = tmp_path / "checkpoint-500" / "global_step500"
    write(step / "mp_rank_00_model_states.pt")
    write(step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    write(step.parent / "latest", "global_step500")
    said = message(step.parent)
    assert said.endswith(f"with: python -m deepspeed.utils.zero_to_fp32 {step.parent} OUT")
    write(step.parent / "zero_to_fp32.py")
    command = f"python {step.parent / 'zero_to_fp32.py'} {step.parent} OUT"
    assert message(step.parent).endswith(f"with: {command}")
    assert message(step).endswith(f"with: {command} -t global_step500")
    with pytest.raises(CheckpointNotFound, match="the state of a training with DeepSpeed"):
        open_checkpoint(tmp_path)
    put(step.parent / "model.safetensors", state(1))  # a trainer that gathered them itself
    assert_is(step.parent, state(1))
    put(tmp_path / "other" / "global_step7" / "model.safetensors", state(2))  # a trainer that only names it so
    assert_is(tmp_path / "other", state(2))
    write(tmp_path / "pipelined" / "global_step7" / "layer_00-model_00-model_states.pt")
    assert "the state of a training with DeepSpeed" in message(tmp_path / "pipelined")


def test_case_9c_distributed_checkpoints(tmp_path: Path) -> None:
    write(tmp_path / "dcp" / "__0_0.distcp")
    write(tmp_path / "dcp" / ".metadata")
    assert message(tmp_path / "dcp").endswith(
        f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {tmp_path / 'dcp'} OUT.pt"
    )
    fsdp = tmp_path / "fsdp" / "pytorch_model_fsdp_0"
    write(fsdp / "__0_0.distcp")
    write(tmp_path / "fsdp" / "optimizer_0" / "__0_0.distcp")
    assert message(tmp_path / "fsdp").endswith(f"accelerate merge-weights {fsdp} OUT")


def pipeline(folder: Path, seeds: Mapping[str, int], **more: Any) -> Path:
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30", **more}
    for name, seed in seeds.items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        put(folder / name / f"{stem}.safetensors", state(seed))
        write(folder / name / "config.json")
        index[name] = ["diffusers", "Some"]
    write(folder / "scheduler" / "scheduler_config.json")
    index |= {"scheduler": ["diffusers", "PNDMScheduler"], "safety_checker": [None, None]}
    write(folder / "model_index.json", index)
    return folder


# 9f, 9g: shards and indexes


def shards(folder: Path, *parts: State, stem: str = "model", of: int | None = None) -> Path:
    for i, part in enumerate(parts):
        put(folder / f"{stem}-{i + 1:05}-of-{of or len(parts):05}.safetensors", part)
    return folder


def test_case_9f_shards_without_an_index_are_read_with_a_note(tmp_path: Path) -> None:
    whole = state(0)
    parts = [{"a.weight": whole["a.weight"]}, {"b.weight": whole["b.weight"]}]
    base = shards(tmp_path / "base", *parts)
    assert_is(base, whole)
    assert note(base) == "2 shards without an index are read as they are"
    assert_is(shards(tmp_path / "sd", *parts, stem="diffusion_pytorch_model"), whole)
    task = put(tmp_path / "task.safetensors", state(1))
    merge(base, [task], tmp_path / "out", method="increments")
    shared = ["README.md", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert files(tmp_path / "out") == [*shared, "model.safetensors.index.json", "receipt.json"]


def test_case_9f_pickled_shards_without_an_index(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes a pickle")
    for i, (name, value) in enumerate(state(0).items()):
        torch.save({name: torch.from_numpy(value)}, tmp_path / f"pytorch_model-{i + 1:05}-of-00002.bin")
    assert_is(tmp_path, state(0))


def test_case_9f_shards_that_say_too_little(tmp_path: Path) -> None:
    lacking = shards(tmp_path / "lacking", {"a": np.zeros(2, np.float32)}, of=3)
    assert "1 of 3 shards are there, without an index; lacking: model-00002-of-00003.safetensors" in message(
        lacking, CheckpointCorrupt
    )
    twice = shards(tmp_path / "twice", {"a": np.zeros(2, np.float32)}, {"a": np.ones(2, np.float32)})
    assert "tensor 'a' is in model-00001-of-00002.safetensors and in" in message(twice, CheckpointCorrupt)
    huge = put(tmp_path / "huge" / "model-00001-of-99999.safetensors", {"a": np.zeros(2, np.float32)}).parent
    assert "1 of 99999 shards are there" in message(huge, CheckpointCorrupt)
    mixed = shards(tmp_path / "mixed", {"a": np.zeros(2, np.float32)}, {"b": np.ones(2, np.float32)})
    put(mixed / "ema.safetensors", state(0))
    assert "several checkpoints: ema.safetensors, model-00001-of-00002.safetensors" in message(mixed)


@pytest.mark.parametrize(
    ("embeddings", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("shared.weight", "encoder.embed_tokens.weight"),
        ("model.decoder.embed_tokens.weight", "proj_out.weight"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ],
)
def test_case_9g_an_index_lists_a_tied_head_that_no_shard_holds(tmp_path: Path, embeddings: str, head: str) -> None:
    file = "model-00001-of-00001.safetensors"
    put(tmp_path / file, {embeddings: np.ones((3, 2), np.float32)})
    write(tmp_path / "model.safetensors.index.json", {"weight_map": {embeddings: file, head: file}})
    assert set(open_checkpoint(tmp_path).tensors) == {embeddings}
    assert note(tmp_path) == (
        f"model.safetensors.index.json lists {head!r}, which no shard holds: taken for tied to the embeddings"
    )
    write(tmp_path / "config.json", {"tie_word_embeddings": False})
    assert f"places tensor {head!r} in {file}, which does not hold it" in _refusal(tmp_path)


def _refusal(folder: Path) -> str:
    with pytest.raises(CheckpointCorrupt) as raised:
        open_checkpoint(folder)
    return str(raised.value)


@pytest.mark.parametrize("lost", ["layers.0.output.weight", "blocks.3.proj_out.weight", "head.bias", "ghost"])
def test_case_9g_any_other_tensor_that_is_lacking_stays_an_error(tmp_path: Path, lost: str) -> None:
    file = "model-00001-of-00001.safetensors"
    put(tmp_path / file, {"embed.weight": np.ones((3, 2), np.float32)})
    write(tmp_path / "model.safetensors.index.json", {"weight_map": {"embed.weight": file, lost: file}})
    assert f"places tensor {lost!r}" in _refusal(tmp_path)
    put(tmp_path / file, {"layers.0.weight": np.ones((3, 2), np.float32)})  # no embeddings that it could be tied to
    write(tmp_path / "model.safetensors.index.json", {"weight_map": {"layers.0.weight": file, "lm_head.weight": file}})
    assert "places tensor 'lm_head.weight'" in _refusal(tmp_path)


# 12: names of tasks


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["cars/checkpoint-500", "birds/checkpoint-500"], ["cars", "birds"]),
        (["task_1/best_model.pth", "task_2/best_model.pth"], ["task_1", "task_2"]),
        (["a/run/checkpoint-1", "b/run/checkpoint-1"], ["a", "b"]),
        (["a/x/w.pt", "a/y/w.pt", "b/x/w.pt"], ["a-x", "a-y", "b-x"]),
        (["cars/checkpoint-500", "birds/checkpoint-500", "dogs.pt"], ["cars", "birds", "dogs"]),
        (["cars/checkpoint-500/model.safetensors", "birds/checkpoint-500/model.safetensors"], ["cars", "birds"]),
        (["cars.pt", "birds.pt"], ["cars", "birds"]),
    ],
)
def test_case_12_names_from_the_first_parent_that_differs(tmp_path: Path, paths: list[str], names: list[str]) -> None:
    assert names_of([tmp_path / path for path in paths], [None] * len(paths)) == names


def test_case_12_in_merges_candidates_and_preferences(tmp_path: Path) -> None:
    base = put(tmp_path / "base.safetensors", state(0))
    tasks = [put(tmp_path / f"task_{i}" / "best_model.safetensors", state(i)) for i in (1, 2)]
    receipt = merge(base, tasks, tmp_path / "out.safetensors", preference="task_1=0.8,task_2=0.2")
    assert receipt.tasks == ("task_1", "task_2")
    verify(tmp_path / "out.safetensors", inputs=True, rerun=True)
    with Candidates(base, tasks) as candidates:
        assert candidates.names == ("task_1", "task_2")
        candidates.check(preference="task_1=0.8,task_2=0.2")


def test_case_12_names_that_were_given_stay(tmp_path: Path) -> None:
    assert names_of(["a/w.pt", "b/w.pt"], ["w", None]) == ["w", "w"]
    base = put(tmp_path / "base.safetensors", state(0))
    tasks = [put(tmp_path / name / "w.safetensors", state(i)) for i, name in enumerate("ab", 1)]
    with pytest.raises(PrefmergeError, match="two tasks are called 'same'"):
        plan(base, tasks, names=["same", "same"])


# 13: outputs that are there


@pytest.mark.parametrize("force", [True, False])
def test_case_13_a_folder_that_prefmerge_did_not_make(tmp_path: Path, force: bool) -> None:
    base, task = (put(tmp_path / f"{i}.safetensors", state(i)) for i in range(2))
    write(tmp_path / "existing" / "thesis.txt")
    said = re.escape(f"{tmp_path / 'existing'}: already exists and holds no receipt.json, so prefmerge did not make")
    with pytest.raises(OutputExists, match=f"{said}.*will not replace it, even with --force"):
        merge(base, [task], tmp_path / "existing", force=force)
    assert files(tmp_path / "existing") == ["thesis.txt"]


def test_case_13_what_force_helps_with_says_so(tmp_path: Path) -> None:
    base, task = (put(tmp_path / f"{i}.safetensors", state(i)) for i in range(2))
    merge(base, [task], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "foreign.safetensors", state(3))
    for name in ("out", "empty", "foreign.safetensors"):
        with pytest.raises(OutputExists, match=r"already exists\. Choose another output, or overwrite it with --force"):
            merge(base, [task], tmp_path / name)
        merge(base, [task], tmp_path / name, force=True)


# S6: links


@pytest.mark.parametrize(
    "link",
    ["tokenizer.json", "unet/tokenizer.json", "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.bin"],
)
def test_attack_s6_no_file_of_a_base_leads_out_of_it(tmp_path: Path, link: str) -> None:
    secret = write(tmp_path / "secret.txt", "the user's own")
    base = pipeline(tmp_path / "base", {"unet": 0, "vae": 1})
    (base / link).parent.mkdir(exist_ok=True)
    (base / link).symlink_to(secret)
    write(base / "model_index.json", {name: ["diffusers", "X"] for name in ("unet", "vae", "text_encoder")})
    task = pipeline(tmp_path / "task", {"unet": 2, "vae": 1})
    receipt = merge(base, [task], tmp_path / "out")
    assert all((tmp_path / "out" / name).read_bytes() != secret.read_bytes() for name in files(tmp_path / "out"))
    assert any(f"{link} (links out of the folder, or to nothing)" in text for text in receipt.notes)


def test_attack_s6_a_module_that_is_a_link_out(tmp_path: Path) -> None:
    write(tmp_path / "secret" / "key.txt", "the user's own")
    put(tmp_path / "secret" / "model.safetensors", state(9))
    base = pipeline(tmp_path / "base", {"unet": 0, "vae": 1})
    (base / "text_encoder").symlink_to(tmp_path / "secret")
    write(base / "model_index.json", {name: ["diffusers", "X"] for name in ("unet", "vae", "text_encoder")})
    merge(base, [pipeline(tmp_path / "task", {"unet": 2, "vae": 1})], tmp_path / "out")
    assert not (tmp_path / "out" / "text_encoder").exists()


# As a user


def test_the_command_line_over_a_pipeline(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", {"unet": 0, "vae": 1})
    task = pipeline(tmp_path / "task", {"unet": 2, "vae": 1})
    for line in (
        ["plan", str(base), str(task)],
        ["merge", str(base), str(task), "-o", str(tmp_path / "out")],
        ["inspect", str(base)],
    ):
        said = CliRunner().invoke(app, line)
        assert said.exit_code == 0, said.output
        assert "a pipeline of diffusers: the weights of its unet are taken" in " ".join(said.output.split())
    base_and_task = "Note: base, task 'task': a pipeline of diffusers: the weights of its unet are taken"
    assert base_and_task in " ".join(CliRunner().invoke(app, ["plan", str(base), str(task)]).output.split())
    said = CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--with-inputs", "--rerun"])
    assert said.exit_code == 0, said.output


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder itself is an error; one beside the checkpoint in it is nobody's."""
    put(tmp_path / "out" / "checkpoint-5" / "model.safetensors", state(1))
    (tmp_path / "out" / "private").mkdir()
    listed, closed = Path.iterdir, {tmp_path / "out" / "private"}

    def refuse(path: Path):
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert_is(tmp_path / "out", state(1))
    closed.add(tmp_path / "out")
    assert "cannot be read (Permission denied)" in message(tmp_path / "out")
