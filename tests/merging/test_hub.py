"""Hub ids as base and tasks, against a stand-in for the hub: what is fetched, what the cache answers, what is said."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefmerge import merge, verify
from prefmerge.checkpoints.hub_files import files_of_checkpoint
from prefmerge.checkpoints.paths import hub_id, name_of, names_of, split_adapter
from prefmerge.errors import CheckpointNotFound, DiskFull, MissingExtra, PrefmergeError
from prefmerge.ground.progress import listening
from prefmerge.merging.api import plan
from prefmerge.merging.candidates import Candidates
from prefmerge.merging.recipe_file import read_recipe
from prefmerge.outputs.companions import companions_among
from prefmerge.target.checkpoints import Checkpoints
from tests.hub_server import TOKEN, Hub

torch = pytest.importorskip("torch", reason="makes models")
transformers = pytest.importorskip("transformers", reason="makes models")
peft = pytest.importorskip("peft", reason="makes adapters")
constants = pytest.importorskip("huggingface_hub.constants", reason="fetches")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
NOT_FETCHED = ("optimizer.pt", "model.onnx", "model.gguf", "tf_model.h5", "x.msgpack", "README.md", ".gitattributes")
VOCABULARIES = Path(__file__).parents[1] / "golden" / "vocabularies"
BESIDE = ("tokenizer.json", "generation_config.json", "chat_template.jinja")


def model(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=40, **sizes))


def published(folder: Path, seed: int, shards: bool = False) -> None:
    """A model as people publish it: pickles of the same weights, other formats and the state of the training beside."""
    model(seed).save_pretrained(folder, max_shard_size="4KB" if shards else "1GB")
    torch.save(model(seed).state_dict(), folder / "pytorch_model.bin")
    for name in (*NOT_FETCHED, *BESIDE, "tokenizer_config.json", "onnx/config.json", "checkpoint-5/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f'{{"_of": "{folder.parent.name} {name}"}}')
    shutil.copy(folder / "pytorch_model.bin", folder / "checkpoint-5" / "pytorch_model.bin")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repositories") / "org"
    published(folder / "base-3.1" / "main", 0)
    published(folder / "cars" / "main", 1)
    published(folder / "cars" / "v2", 2)
    published(folder / "birds" / "main", 3, shards=True)
    adapted = peft.get_peft_model(model(0), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(folder / "lora" / "main")
    (folder / "lora" / "main" / "optimizer.pt").write_text("state")
    (folder / "data" / "main").mkdir(parents=True)
    (folder / "data" / "main" / "model.gguf").write_text("codes")
    return folder.parent


@pytest.fixture
def hub(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield hub


def refusal(kind: type[PrefmergeError] = CheckpointNotFound, base: str = "org/base-3.1", task: str = "org/cars") -> str:
    with pytest.raises(kind) as caught:
        merge(base, [task], "out")
    assert not Path("out").exists()
    return str(caught.value)


# What is fetched, and what comes out


def test_only_what_is_needed_is_fetched(hub: Hub) -> None:
    merge("org/base-3.1", ["org/cars", "org/birds"], "out")
    weights = ["config.json", "model.safetensors"]
    shards = [path.name for path in (hub.folder / "org" / "birds" / "main").glob("model*safetensors*")]
    assert len(shards) > 3
    beside = [*BESIDE, "tokenizer_config.json"]
    assert sorted(hub.fetched) == sorted([*weights, *beside, *weights, "config.json", *shards])


def test_the_output_is_that_of_the_local_folders(hub: Hub, tmp_path: Path) -> None:
    there = hub.folder / "org"
    local = [there / "base-3.1" / "main", there / "cars" / "v2", there / "birds" / "main"]
    names = ["cars", "birds"]
    merge(local[0], local[1:], tmp_path / "from-local", names=names)
    receipt = merge("org/base-3.1", ["org/cars@v2", "org/birds"], tmp_path / "out")
    assert receipt.tasks == tuple(names)
    assert receipt.inputs.base.name == "base-3.1"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in (tmp_path / "from-local").iterdir()}
    for name in files - {"receipt.json", "README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "from-local" / name).read_bytes(), name
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("given", [{"tokenizer": "union"}, {"tokenizer_from": "cars-v"}, {"chat_template": "cars-v"}])
def test_tokenizers_of_tasks_are_fetched_where_they_are_needed(given: dict[str, Any], hub: Hub, tmp_path: Path) -> None:
    there = [hub.folder / "org" / name / "main" for name in ("base-v", "cars-v")]
    of = ["base", "cars" if "tokenizer" in given else "base"]
    for path, name in zip(there, of, strict=True):
        shutil.copytree(VOCABULARIES / name, path)
    shutil.copy(VOCABULARIES / "cars" / "tokenizer_config.json", there[1])
    try:
        merge("org/base-v", ["org/cars-v"], "out", **given)
        assert hub.fetched.count("tokenizer.json") == 2
        merge(there[0], [there[1]], "local", names=["cars-v"], **given)
    finally:
        for path in there:
            shutil.rmtree(path.parent)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert Path("out", name).read_bytes() == Path("local", name).read_bytes()


def test_the_receipt_names_repository_and_commit(hub: Hub) -> None:
    receipt = merge("org/base-3.1", ["org/cars@v2"], "out")
    commit = hub.commit("org/cars", "v2")
    assert f"task 'cars': org/cars of the Hugging Face hub, commit {commit}." in receipt.notes
    assert f"base: org/base-3.1 of the Hugging Face hub, commit {hub.commit('org/base-3.1', 'main')}." in receipt.notes
    path = receipt.inputs.tasks[0].path
    assert path is not None
    assert path.endswith(f"models--org--cars/snapshots/{commit}")
    report = verify("out", inputs=True, rerun=True)
    assert "task 'cars': content fingerprint" in report.passed
    assert not report.skipped
    shutil.rmtree(path)
    assert verify("out", inputs=True).skipped == (f"task 'cars': {path} is no longer there",)


def test_a_commit_is_a_revision(hub: Hub) -> None:
    commit = hub.commit("org/cars", "v2")
    with plan("org/base-3.1", [f"org/cars@{commit}"]) as planned:
        assert any(str(commit) in note for note in planned.notes)


def test_an_adapter_is_a_task_alone_and_over_another_model(hub: Hub) -> None:
    merge("org/base-3.1", ["org/lora"], "alone")
    assert hub.fetched.count("adapter_model.safetensors") == 1
    assert "optimizer.pt" not in hub.fetched
    there = hub.folder / "org"
    receipt = merge("org/base-3.1", ["org/cars@v2+org/lora"], "out")
    assert receipt.tasks == ("lora",)
    merge(there / "base-3.1" / "main", [f"{there / 'cars' / 'v2'}+{there / 'lora' / 'main'}"], "from-local")
    assert Path("out/model.safetensors").read_bytes() == Path("from-local/model.safetensors").read_bytes()
    merge("org/base-3.1", [f"org/cars@v2+{there / 'lora' / 'main'}"], "mixed")
    assert Path("mixed/model.safetensors").read_bytes() == Path("out/model.safetensors").read_bytes()
    commits = [hub.commit("org/lora", "main"), hub.commit("org/cars", "v2")]
    assert all(any(str(commit) in note for note in receipt.notes) for commit in commits)
    assert "task 'lora': content fingerprint" in verify("out", inputs=True, rerun=True).passed


def test_a_recipe_names_ids(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: average\nbase_model: org/base-3.1\n"
        "models: [{model: org/cars@v2}, {model: org/cars@v2+org/lora}]\n"
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert [task.path for task in recipe.tasks] == ["org/cars@v2", "org/cars@v2+org/lora"]
    assert recipe.names == ["cars", "lora"]


def test_candidates_and_adapt_take_ids(hub: Hub) -> None:
    with Candidates("org/base-3.1", ["org/cars"]) as candidates:
        assert candidates.names == ("cars",)
    checkpoints = Checkpoints.of_paths(Path("org/base-3.1"), [Path("org/cars@v2"), Path("org/cars")])
    assert checkpoints.names == ("v2", "main")
    assert checkpoints.base is not None
    assert (checkpoints.base / "tokenizer.json").is_file()
    assert all((path / "model.safetensors").is_file() for path in checkpoints.paths)


def test_one_line_says_what_is_fetched_and_nothing_where_all_is_cached(
    hub: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    for _ in range(2):
        with listening(heard.append):
            plan("org/cars", ["org/cars@v2"]).close()
    lines = [line for line in heard if line]
    assert lines == [
        "fetching org/cars: chat_template.jinja, config.json and 4 more, 0.00 GB",
        "fetching org/cars@v2: config.json, model.safetensors, 0.00 GB",
    ]
    assert capfd.readouterr() == ("", "")


# The cache


def test_the_cache_answers_where_the_hub_does_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    merge("org/base-3.1", ["org/cars"], "first")
    fetched = len(hub.fetched)
    merge("org/base-3.1", ["org/cars"], "again")
    assert len(hub.fetched) == fetched
    hub.broken = 503
    merge("org/base-3.1", ["org/cars"], "broken")
    hub.stop()
    merge("org/base-3.1", ["org/cars"], "gone")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    merge("org/base-3.1", ["org/cars"], "offline")
    first = Path("first/model.safetensors").read_bytes()
    assert all(Path(out, "model.safetensors").read_bytes() == first for out in ("again", "broken", "gone", "offline"))
    assert Path("offline/tokenizer.json").is_file()


def test_what_the_cache_lacks_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan("org/base-3.1", ["org/cars"]).close()
    hub.stop()
    said = refusal(base="org/cars", task="org/base-3.1")  # it came as a task, without what a base has beside
    assert said.startswith(
        "org/cars: the cache lacks chat_template.jinja, generation_config.json, tokenizer.json, tokenizer_config.json, "
        "and the hub cannot be reached (ConnectError"
    )
    said = refusal(task="org/birds")
    assert said.startswith(
        "org/birds: no such file or folder here, and the cache of the Hugging Face hub has no copy; the hub cannot be "
        "reached (ConnectError"
    )
    assert said.endswith("Correct the path, check the network, or give a local folder.")
    assert hub.address not in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(task="org/birds") == (
        "org/birds: no such file or folder here, and the cache of the Hugging Face hub has no copy; HF_HUB_OFFLINE is "
        "set, so the hub was not asked. Unset HF_HUB_OFFLINE to fetch it, or give a local folder."
    )


def test_a_path_on_disk_wins(hub: Hub, tmp_path: Path) -> None:
    for name in ("cars", "cars@v2"):
        shutil.copytree(hub.folder / "org" / "cars" / "main", tmp_path / "org" / name)
    plan("org/base-3.1", ["org/cars", "org/cars@v2"]).close()
    assert hub.fetched.count("config.json") == 1


# What is said where it cannot be had


def test_a_private_repository_needs_the_right_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add("org/cars")
    assert refusal() == (
        "org/cars: no such file or folder here, and no such model on the Hugging Face hub, or a private one. Correct "
        "the path or the name; for a private one log in with `hf auth login`."
    )
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    assert "w" * 34 not in refusal()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in repr(merge("org/base-3.1", ["org/cars"], "out").to_json())


def test_what_cannot_be_had_is_one_message(hub: Hub) -> None:
    assert refusal(task="org/gone").startswith(
        "org/gone: no such file or folder here, and no such model on the Hugging"
    )
    assert refusal(task="org/cars@v9") == (
        "org/cars@v9: org/cars of the Hugging Face hub has no revision 'v9'. Give one of its branches, tags or commits."
    )
    assert refusal(task="org/data") == (
        "org/data: no checkpoint in this repository. It holds model.gguf: weights of GGUF, which is quantised or of "
        "another library, which prefmerge does not read. Convert them with the library's own save_pretrained first."
    )
    hub.gated.add("org/cars")
    assert refusal() == (
        "org/cars: its owner decides who may read it. Ask for access on its page of the Hugging Face hub, and log in "
        "with `hf auth login`."
    )
    hub.broken = 403
    assert refusal(task="org/birds", base="org/cars") == (
        "org/cars: the Hugging Face hub does not let you read it (status 403). Use a token that may read it: log in "
        "with `hf auth login`, or set HF_TOKEN."
    )


def test_a_full_disk_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "is full. Free some space, or set HF_HOME" in refusal(DiskFull)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # pyright: ignore[reportAttributeAccessIssue]
    assert "has 0.00 GB left" in refusal(DiskFull)


def test_without_the_library_the_message_is_its_command(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal(MissingExtra, base="org/gone") == (
        "org/gone: no such file or folder here, and fetching it from the Hugging Face hub needs an optional "
        "dependency. Install it with: pip install 'prefmerge[hub]'"
    )


def test_the_command_line_merges_ids(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "prefmerge", *words]
        return subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("merge", "org/base-3.1", "org/cars@v2", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "commit" in done.stdout
    assert "Fetching" not in done.stderr
    done = run("inspect", "org/base-3.1", "org/cars@v2", "--json")
    assert done.returncode == 0, done.stderr
    done = run("plan", "org/base-3.1", "org/cars@v9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: org/cars@v9: org/cars of the Hugging Face hub has no revision")
    assert "Traceback" not in done.stderr


# What an id looks like, and which files are meant


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/Llama-3.1_8B@v2", "org/Llama-3.1_8B", "v2"),
        ("org/name@refs/pr/3", "org/name", "refs/pr/3"),
    ],
)
def test_what_is_an_id(text: str, repository: str, revision: str | None) -> None:
    what = hub_id(text)
    assert what is not None
    assert (what.repository, what.revision, str(what)) == (repository, revision, text)


@pytest.mark.parametrize(
    "text",
    ["name", "a/b/c", "/a/b", "./a", "../a", "~/a", "a/.b", "a/b@", "a/b.safetensors", "a/b.pt", "a/b#c", "a/", ""],
)
def test_what_is_no_id(text: str) -> None:
    assert hub_id(text) is None


def test_ids_are_called_by_what_is_behind_the_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_of(Path("org/Llama-3.1-8B@v1.5")) == "Llama-3.1-8B"
    assert names_of(["a/x", "b/x"], [None, None]) == ["a", "b"]
    assert names_of(["a/x@v1", "a/x"], [None, None]) == ["v1", "main"]
    assert split_adapter("a/x@v1+b/y") == (Path("a/x@v1"), Path("b/y"))


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ("pytorch_model.bin config.json training_args.bin", "config.json pytorch_model.bin"),
        ("config.json adapter_config.json adapter_model.bin adapter_model.safetensors checkpoint-5/adapter_model.bin",
         "config.json adapter_config.json adapter_model.safetensors"),
        ("a-00001-of-00002.bin a-00002-of-00002.bin", "a-00001-of-00002.bin a-00002-of-00002.bin"),
        ("model.safetensors.index.json one.safetensors two.safetensors pytorch_model.bin",
         "model.safetensors.index.json one.safetensors two.safetensors"),
        ("model.safetensors model.safetensors.index.json", "model.safetensors model.safetensors.index.json"),
        ("README.md checkpoint-5/model.safetensors checkpoint-5/config.json checkpoint-5/optimizer.pt",
         "checkpoint-5/config.json checkpoint-5/model.safetensors"),
        ("model_index.json v1.safetensors v2.safetensors unet/config.json unet/diffusion_pytorch_model.safetensors "
         "unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.bin vae/model.safetensors "
         "scheduler/scheduler_config.json",
         "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors vae/model.safetensors"),
        ("modules.json model.safetensors pytorch_model.bin 2_Dense/model.safetensors onnx/model.onnx openvino/x.bin "
         "checkpoint-5/model.safetensors", "modules.json model.safetensors 2_Dense/model.safetensors"),
    ],
)  # fmt: skip
def test_the_files_of_a_repository(names: str, needed: str) -> None:
    assert sorted(files_of_checkpoint(names.split(), "it").needed) == sorted(needed.split())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a.safetensors b.safetensors", "it: several checkpoints: a.safetensors, b.safetensors."),
        (
            "model.safetensors model-00001-of-00001.safetensors",
            "it: several checkpoints: model.safetensors, model-00001",
        ),
        ("a/model.safetensors b/model.safetensors", "it: holds no weights itself, and 2 checkpoints: a, b."),
        ("README.md", "it: no checkpoint in this repository. It holds README.md; expected model.safetensors"),
    ],
)
def test_a_repository_that_is_not_one_checkpoint(names: str, said: str) -> None:
    with pytest.raises(CheckpointNotFound) as caught:
        files_of_checkpoint(names.split(), "it")
    assert str(caught.value).startswith(said)


def test_the_companions_of_a_repository() -> None:
    taken = "tokenizer/vocab.json scheduler/scheduler_config.json LICENSE unet/config.json assets/a.png"
    left = (
        "README.md .gitattributes optimizer.pt x.lock receipt.json v1.safetensors vae/pytorch_model.bin.index.json "
        "other/config.json other/model.bin onnx/config.json .cache/x runs/x adapter_config.json"
    )
    names = [*taken.split(), *left.split(), "model_index.json", "unet/diffusion_pytorch_model.safetensors"]
    names = [name for name in names if not name.startswith("other/")]
    assert set(companions_among(names, files_of_checkpoint(names, "it"))) == {*taken.split(), "model_index.json"}
    names = ["config.json", "model.safetensors", "other/config.json", "other/model.bin"]
    assert companions_among(names, files_of_checkpoint(names, "it")) == ["config.json"]
