"""A merged folder on the hub, against a stand-in for it: what goes, what does not, what is said."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import prefmerge
from prefmerge.cli import app
from prefmerge.errors import MissingExtra, OutputError, PrefmergeError, UsageError, VerificationFailed
from prefmerge.ground.progress import listening
from tests.hub_server import TOKEN, Hub

constants = pytest.importorskip("huggingface_hub.constants", reason="uploads")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's client
TO = "org/made"
GOES = ["README.md", "config.json", "model.safetensors", "receipt.json", "sub/tokenizer.json"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "repositories").mkdir()
    with Hub(tmp_path / "repositories") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in knows LFS alone
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def out(hub: Hub) -> Path:
    for seed, name in enumerate(("base", "cars", "birds")):
        Path(name, "sub").mkdir(parents=True)
        values = np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32)
        save_file({"a.w": values, "b.w": values[::-1].copy()}, Path(name) / "model.safetensors", {"format": "pt"})
        (Path(name) / "config.json").write_text('{"model_type": "tiny"}')
        (Path(name) / "sub" / "tokenizer.json").write_text("{}")
    prefmerge.merge("base", ["cars", "birds"], "merged", preference="0.7,0.3")
    return Path("merged")


def there(hub: Hub, repository: str = TO) -> dict[str, bytes]:
    place = hub.folder / repository / "main"
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def call(line: str) -> Any:
    return CliRunner().invoke(app, line.split(), prog_name="prefmerge")


def refusal(kind: type[PrefmergeError], *given: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        prefmerge.push(*given, **more)
    return str(caught.value)


def test_the_folder_is_there_whole_and_nothing_else_of_it(hub: Hub, out: Path) -> None:
    for name in ("notes.txt", ".env", "sub/secret.json", "optimizer.pt"):
        (out / name).write_text("mine")
    told: list[str] = []
    with listening(told.append):
        pushed = prefmerge.push(out, TO)
    assert [file.name for file in pushed.files] == GOES
    assert there(hub) == {name: (out / name).read_bytes() for name in GOES}
    assert [file.bytes for file in pushed.files] == [len(there(hub)[name]) for name in GOES]
    assert pushed.address == f"{hub.address}/{TO}/commit/{hub.commit(TO, 'main')}"
    assert len(hub.commits) == len(hub.large) == 1
    assert TO not in hub.private
    assert "pushing to org/made: README.md, config.json and 3 more, 0.00 GB" in told
    assert prefmerge.verify(hub.folder / TO / "main").tensors == 2


def test_shards_go_with_their_index(hub: Hub, out: Path) -> None:
    prefmerge.merge("base", ["cars"], "cut", max_shard_size="200B")
    prefmerge.push("cut", TO)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(there(hub)) == sorted({*GOES, *shards, "model.safetensors.index.json"} - {"model.safetensors"})


def test_a_private_repository(hub: Hub, out: Path) -> None:
    prefmerge.push(out, TO, private=True)
    assert hub.private == {TO}
    prefmerge.push(out, TO, private=True)  # again, into what is there
    hub.private.clear()
    assert refusal(OutputError, out, TO, private=True).startswith("org/made is there and public. Make it private on")


def test_a_dry_run_needs_no_hub(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert [file.name for file in prefmerge.push(out, TO, dry_run=True).files] == GOES
    done = call("push merged org/made --dry-run")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[2:7]] == GOES
    assert done.stdout.endswith("This would go to org/made. Nothing was sent.\n")
    told = json.loads(call("push merged org/made --dry-run --json").stdout)
    assert told["address"] is None
    assert [file["name"] for file in told["files"]] == GOES


def test_merge_pushes_what_it_made(hub: Hub, out: Path) -> None:
    done = call("merge base cars birds -o new --push org/made --private")
    assert done.exit_code == 0, done.stderr
    assert f"Pushed:  5 files to {TO}: {hub.address}/{TO}/commit/" in done.stdout
    assert there(hub)["model.safetensors"] == Path("new/model.safetensors").read_bytes()
    assert hub.private == {TO}
    done = call("merge base cars -o as-json --push org/another --json")
    assert json.loads(done.stdout)["output"]["path"] == "as-json"
    assert "Pushed:  5 files to org/another" in done.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("merge base cars -o new --private", 2, "--private says how --push ORG/NAME makes a repository."),
        ("merge base cars -o new.safetensors --push org/made", 2, "is one file, and --push sends a folder. Give for "),
        ("merge base cars -o new --push made", 2, "made is no repository of the Hugging Face hub. Give ORG/NAME,"),
        ("merge base cars -o new --push org/made@v2", 2, "org/made@v2 names a revision, and a model is pushed to the "),
        ("merge two.yaml -o new --push org/made", 2, "two.yaml has several recipes, and --push has one repository: "),
        ("merge base cars -o new --push org/public --private", 1, "org/public is there and public."),
    ],
)
def test_merge_refuses_before_it_merges(line: str, code: int, said: str, hub: Hub, out: Path) -> None:
    one = "merge_method: linear\nmodels: [{model: cars}, {model: birds}]\n"
    Path("two.yaml").write_text(f"name: a\n{one}---\nname: b\n{one}")
    (hub.folder / "org" / "public" / "main").mkdir(parents=True)
    done = call(line)
    assert (done.exit_code, Path("new").exists()) == (code, False)
    assert said in done.stderr


def test_a_dry_run_of_a_merge_says_where_it_would_go(hub: Hub, out: Path) -> None:
    hub.stop()
    done = call("merge base cars -o new --dry-run --push org/made")
    assert done.exit_code == 0
    assert "note: the folder would be pushed to org/made." in done.stderr


# What is no output, or not what was merged


def test_only_what_prefmerge_made_is_pushed(hub: Hub, out: Path) -> None:
    assert refusal(VerificationFailed, "cars", TO) == (
        "cars holds no receipt.json, so prefmerge did not make it. Only what prefmerge merged can be pushed."
    )
    prefmerge.merge("base", ["cars"], "one.safetensors")
    assert "one.safetensors is one file, and a repository is made of a folder" in refusal(
        UsageError, "one.safetensors", TO
    )
    assert "gone does not exist." in refusal(PrefmergeError, "gone", TO)
    assert not there(hub)


def test_a_changed_folder_is_refused(hub: Hub, out: Path) -> None:
    weights = out / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "the elements are not those that were merged" in refusal(VerificationFailed, out, TO)
    assert not there(hub)


@pytest.mark.parametrize("how", ["gone", "link", "linked folder", "outside"])
def test_a_file_that_is_not_in_the_folder_is_refused(how: str, hub: Hub, out: Path) -> None:
    Path("secret").write_text("mine")
    name = {"outside": "../secret", "linked folder": "sub/tokenizer.json"}.get(how, "config.json")
    if how == "outside":
        data = json.loads((out / "receipt.json").read_text())
        data["output"]["beside"].append(name)
        (out / "receipt.json").write_text(json.dumps(data))
    elif how == "linked folder":
        shutil.rmtree(out / "sub")
        (out / "sub").symlink_to(Path("base/sub").absolute())
    else:
        (out / name).unlink()
        if how == "link":
            (out / name).symlink_to(Path("secret").absolute())
    assert f"files that the receipt lists are no files of this folder: {name}." in refusal(VerificationFailed, out, TO)
    assert not there(hub)


def test_a_receipt_that_does_not_list_what_is_beside_the_weights(hub: Hub, out: Path) -> None:
    data = json.loads((out / "receipt.json").read_text())
    del data["output"]["beside"]
    (out / "receipt.json").write_text(json.dumps(data))
    assert "so it is not known what belongs to the model. Merge again" in refusal(VerificationFailed, out, TO)


# What the hub says


def test_other_weights_in_the_repository_are_not_left_beside_the_new_ones(hub: Hub, out: Path) -> None:
    prefmerge.merge("base", ["cars"], "cut", max_shard_size="200B")
    prefmerge.push("cut", TO)
    assert refusal(OutputError, out, TO).startswith(
        "org/made holds other weights: model-00001-of-00002.safetensors, model-00002-of-00002.safetensors, "
        "model.safetensors.index.json. They might be loaded for the new ones. Remove them there,"
    )
    assert "model.safetensors" not in there(hub)


def test_without_a_token(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert refusal(OutputError, out, TO) == (
        "org/made: pushing needs a token that may write: log in with `hf auth login`, or set HF_TOKEN."
    )


def test_a_token_that_may_not_write(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    assert refusal(OutputError, out, TO) == (
        "org/made: the Hugging Face hub does not let you write it (status 401). Use a token that may write there: log "
        "in with `hf auth login`, or set HF_TOKEN."
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.gated.add("org/theirs")
    (hub.folder / "org" / "theirs" / "main").mkdir(parents=True)
    assert "org/theirs: the Hugging Face hub does not let you write it (status 403)." in refusal(
        OutputError, out, "org/theirs"
    )


def test_a_hub_that_breaks_off(hub: Hub, out: Path) -> None:
    hub.deaf.add("commit")
    assert "does not let you write it (status 403)" in refusal(OutputError, out, TO)
    assert not there(hub)
    hub.deaf = {"batch"}
    assert "does not let you write it (status 403)" in refusal(OutputError, out, TO)
    hub.deaf.clear()
    hub.broken = 418
    assert refusal(OutputError, out, TO) == ("org/made: nothing was pushed, as the hub answered with status 418.")
    hub.broken = None
    hub.stop()
    assert refusal(OutputError, out, TO).startswith("org/made: nothing was pushed, as the hub cannot be reached (")


def test_a_commit_that_fails_says_how_to_try_again(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(*_: object, **__: object) -> None:
        raise OSError("the line is dead")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", fails)
    assert refusal(OutputError, out, TO) == (
        "org/made: nothing was pushed, as the hub cannot be reached (OSError: the line is dead). The folder is as it "
        "was. To try again: prefmerge push merged org/made"
    )


def test_offline(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(OutputError, out, TO) == (
        "org/made: nothing was pushed, as HF_HUB_OFFLINE is set, so the hub was not asked."
    )


def test_without_the_extra(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal(MissingExtra, out, TO) == (
        "pushing to org/made on the Hugging Face hub needs an optional dependency. Install it with: pip install "
        "'prefmerge[hub]'"
    )
