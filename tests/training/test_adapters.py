"""Adapters in place of whole weights: what a task starts from, what is written, and that all commands take it."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import prefmerge
from prefmerge.config import FinetuneConfig, ModelConfig, make_config
from prefmerge.errors import CheckpointMismatch, ConfigError, MissingExtra
from prefmerge.merging.candidates import Candidates
from prefmerge.models.encoders import Encoder, load_encoder
from prefmerge.runs import Run, read_run
from prefmerge.training import run_folder
from prefmerge.training.finetuning import run_tasks
from tests.models.stubs import ToyEncoder, toy_head, toy_scenario
from tests.models.tiny import MAKERS, picture, tiny_bert

pytest.importorskip("peft", reason="training adapters needs the extra lora")

TASKS = 3
RANK, ALPHA = 2, 3.0
CLASSES = ("ab", "cd", "ef", "gh", "ij", "kl")


def config(method: str = "sequential", **adapter: Any) -> FinetuneConfig:
    training = {"method": method, "epochs": 2, "batch": 5, "learning_rate": 0.05, "warmup_steps": 1}
    machine = {"device": "cpu", "threads": 1, "workers": 0}
    own = {"adapter": {"rank": RANK, "alpha": ALPHA, **adapter}}
    return make_config({"model": "toy", "data": "toy", "training": {**training, **machine, **own}, "seed": 3})


def toy_run(out: Path, asked: FinetuneConfig, **how: Any) -> Run:
    scenario = toy_scenario(TASKS)
    return run_tasks(scenario, ToyEncoder(), lambda: toy_head(scenario), asked, out, **how)


def factors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def files(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.safetensors"))}


def test_a_task_leaves_an_adapter_over_the_base(tmp_path: Path):
    made = toy_run(tmp_path / "run", config())
    for index in range(TASKS):
        folder = made.task_path(index)
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        own = factors(folder)
        assert {name: tuple(one.shape) for name, one in own.items()} == {
            "base_model.model.first.lora_A.weight": (RANK, 6),
            "base_model.model.first.lora_B.weight": (5, RANK),
            "base_model.model.second.lora_A.weight": (RANK, 5),
            "base_model.model.second.lora_B.weight": (4, RANK),
        }
        assert all(bool(one.any()) for one in own.values())
    base = load_file(made.base_path / "model.safetensors")
    assert all(torch.equal(base[name], one) for name, one in ToyEncoder().state().items())
    with Candidates(made.base_path, [made.task_path(1)]) as over:
        model = over.model(method="last")
    own = {name.removeprefix("base_model.model."): one.numpy() for name, one in factors(made.task_path(1)).items()}
    expected = base["first.weight"].numpy() + ALPHA / RANK * (own["first.lora_B.weight"] @ own["first.lora_A.weight"])
    np.testing.assert_allclose(model["first.weight"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["sequential", "independent"])
def test_what_a_task_starts_from(method: str, tmp_path: Path):
    """With no step between: A and B of the task before, or a new A and no B."""
    asked = config(method)
    still = asked.model_copy(update={"training": asked.training.model_copy(update={"learning_rate": 1e-30})})
    made = toy_run(tmp_path / "run", still)
    first, second = (factors(made.task_path(index)) for index in range(2))
    for name, one in second.items():
        if name.endswith("lora_B.weight"):
            assert float(one.abs().max()) < 1e-20
        else:
            assert torch.equal(one, first[name]) == (method == "sequential")


@pytest.mark.parametrize("where", ["write_manifest", "remove_state"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_stop_changes_nothing(where: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toy_run(tmp_path / "whole", config())
    calls = 0
    real = getattr(run_folder, where)

    def stopped(*given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, where, stopped)
        with pytest.raises(KeyboardInterrupt):
            toy_run(tmp_path / "cut", config())
    toy_run(tmp_path / "cut", config())
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_task_that_was_cut_between_epochs_ends_with_the_same_adapter(tmp_path: Path):
    toy_run(tmp_path / "whole", config())

    def cut(now: Any) -> None:
        if now.task == 1 and now.step is not None and now.step.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "cut", config(), progress=cut)
    assert [task.done for task in read_run(tmp_path / "cut").tasks] == [True, False, False]
    toy_run(tmp_path / "cut", config())
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_only_the_layers_that_are_asked_for(tmp_path: Path):
    made = toy_run(tmp_path / "run", config(targets=["second"]))
    assert {name.split(".")[2] for name in factors(made.task_path(0))} == {"second"}
    with pytest.raises(ConfigError, match=r"no linear layer is called 'secnd'. Did you mean 'second'"):
        toy_run(tmp_path / "other", config(targets=["secnd"]))


def test_what_an_adapter_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(ConfigError, match="an adapter and ewc do not go together"):
        config("ewc")
    assert config().training.learning_rate == 0.05
    short = make_config({"model": "toy", "data": "toy", "training": {"adapter": "lora"}}).training
    assert short.adapter is not None
    assert (short.learning_rate, short.adapter.rank, short.adapter.alpha) == (2e-4, 16, 32.0)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"prefmerge\[lora\]"):
        toy_run(tmp_path / "run", config())


# real models


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a tiny BERT and words, three tasks of two classes."""
    pytest.importorskip("transformers", reason="encoders need the extra train")
    folder = tmp_path_factory.mktemp("adapters")
    tiny_bert(folder / "tiny")
    write_words(folder / "words.csv", 24, 0)
    asked = {
        "model": str(folder / "tiny"),
        "data": str(folder / "words.csv"),
        "scenario": {"kind": "class-incremental", "tasks": 3},
        "head": "prototype",
        "held_out": 12,
        "training": {
            "adapter": {"rank": 4},
            "epochs": 3,
            "batch": 8,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "threads": 1,
            "device": "cpu",
        },
    }
    prefmerge.finetune(make_config(asked), folder / "run")
    return folder


def write_words(path: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label in CLASSES:
            writer.writerows(("".join(rng.choices(label, k=8)), label) for _ in range(count))


def state_of(encoder: Encoder) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in encoder.state().items()}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
def test_peft_makes_the_same_model_of_what_was_trained(trained: Path):
    import peft
    import transformers

    run = read_run(trained / "run")
    encoder = load_encoder(ModelConfig(id=str(run.base_path)))
    encoder.load(run.task_path(2))
    ours = state_of(encoder)
    model = transformers.BertModel.from_pretrained(run.base_path)
    adapted: Any = peft.PeftModel.from_pretrained(model, run.task_path(2))
    theirs = adapted.merge_and_unload().state_dict()
    encoder.load(run.base_path)
    changed = 0
    for name, one in ours.items():
        assert torch.allclose(one, theirs[name], rtol=0, atol=1e-6), name
        changed += not torch.equal(one, encoder.state()[name])
    assert changed == 12  # six linear layers in each of two blocks; the pooler counts for nothing


def test_each_command_takes_the_run(trained: Path, tmp_path: Path):
    run = read_run(trained / "run")
    tasks = [run.task_path(index) for index in range(3)]
    prefmerge.merge(run.base_path, tasks, tmp_path / "merged", method="magmax", scale=0.5)
    encoder = load_encoder(ModelConfig(id=str(run.base_path)))
    states = []
    for checkpoint in (run.base_path, *tasks, tmp_path / "merged"):
        encoder.load(checkpoint)
        states.append(state_of(encoder)["encoder.layer.0.attention.self.query.weight"])
    assert all(not torch.equal(one, other) for i, one in enumerate(states) for other in states[:i])
    last = prefmerge.evaluate(tasks[2], trained / "run").accuracies()
    both = prefmerge.evaluate(f"{run.base_path}+{tasks[2]}", trained / "run").accuracies()
    assert both == last
    prefmerge.merge(run.base_path, [tasks[2]], tmp_path / "whole", method="last")
    assert prefmerge.evaluate(tmp_path / "whole", trained / "run").accuracies() == last


def test_adapt_serves_who_has_only_adapters(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="adapt needs the extra places")
    monkeypatch.setenv("PREFMERGE_CACHE", str(tmp_path / "cache"))
    with open(tmp_path / "seen.csv", "w", newline="") as file:
        csv.writer(file).writerows([["label"], *[["ab"]] * 9, *[["kl"]] * 3])
    result = prefmerge.adapt(run=trained / "run", labels=tmp_path / "seen.csv", out=tmp_path / "site")
    assert result.estimates is not None
    assert 0 < result.estimates.chosen.accuracy.value <= 1
    site = tmp_path / "site"
    assert (site / "model.safetensors").is_file()
    assert not (site / "adapter_config.json").exists()
    prefmerge.evaluate(site, trained / "run")


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_files_have_the_base_s_names(kind: str, tmp_path: Path):
    """transformers has some models under other names in memory than in their files."""
    from prefmerge.config import AdapterConfig
    from prefmerge.training.adapters import adapter_in

    MAKERS[kind](tmp_path / "base")
    encoder = load_encoder(ModelConfig(id=str(tmp_path / "base")))
    inputs = ["abc", "xyz"] if encoder.kind == "text" else [picture(0, (16, 16)), picture(1, (16, 16))]
    batch = encoder.prepare(inputs)
    before, named = encoder.tower(**batch), dict(encoder.tower.named_parameters())
    with adapter_in(encoder, AdapterConfig(rank=2), 0) as trained:
        assert torch.equal(encoder.tower(**batch), before)
        with torch.no_grad():
            for number, one in enumerate(trained.factors().values()):
                one.copy_(torch.randn(one.shape, generator=torch.Generator().manual_seed(number)) / 4)
        during = encoder.tower(**batch)
        (tmp_path / "adapter").mkdir()
        trained.save(tmp_path / "adapter")
        trainable = [name for name, one in encoder.tower.named_parameters() if one.requires_grad]
        assert all("lora_" in name for name in trainable)
    assert dict(encoder.tower.named_parameters()).keys() == named.keys()
    assert torch.equal(encoder.tower(**batch), before)
    encoder.load(tmp_path / "adapter")
    after = encoder.tower(**batch)
    assert not torch.allclose(after, before, atol=1e-2)
    assert torch.allclose(after, during, rtol=0, atol=1e-4 * float(during.detach().abs().max()))


def test_an_adapter_whose_base_is_unknown(trained: Path):
    encoder = load_encoder(ModelConfig(id=str(trained / "run" / "base")))
    encoder.base = None
    with pytest.raises(CheckpointMismatch, match="a LoRA adapter, and the model that it is over is on no disk"):
        encoder.load(read_run(trained / "run").task_path(0))
