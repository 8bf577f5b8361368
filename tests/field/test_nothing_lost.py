"""What --force replaces: what a merge wrote, and nothing of anybody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefmerge import merge
from prefmerge.errors import OutputExists
from tests.field.made import files, put, state, write


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    "name", ["notes.txt", "deep/er/notes.txt", "quantised.gguf", "kept", "my.html", ".env", ".git/HEAD", "deep/.x/y"]
)
def test_case_13_what_others_put_into_an_output_is_not_removed(tmp_path: Path, name: str, force: bool) -> None:
    base, task = (
        put(tmp_path / "base" / "model.safetensors", state(0)).parent,
        put(tmp_path / "t.safetensors", state(1)),
    )
    out = tmp_path / "out"
    merge(base, [task], out)
    if name == "kept":
        write(tmp_path / "elsewhere" / "precious.txt")
        (out / name).symlink_to(tmp_path / "elsewhere")
    else:
        write(out / name)
    before = files(out)
    shown = {".git/HEAD": ".git", "deep/.x/y": "deep/.x"}.get(name, name)  # a hidden folder is one thing
    with pytest.raises(OutputExists, match=rf"holds what the merge before did not write.*{shown}\. Move it out"):
        merge(base, [task], out, force=force)
    assert files(out) == before


def test_case_13_what_systems_put_into_an_output_does_not_matter(tmp_path: Path) -> None:
    base, task = (
        put(tmp_path / "base" / "model.safetensors", state(0)).parent,
        put(tmp_path / "t.safetensors", state(1)),
    )
    out = tmp_path / "out"
    write(base / "config.json", {"model_type": "none"})
    write(base / "code" / "modeling.py")
    merge(base, [task], out, report=True)
    for name in (".DS_Store", "._model.safetensors", ".cache/huggingface/upload.json", ".nfs01", ".o.prefmerge-0.tmp"):
        write(out / name)
    write(out / "code" / "__pycache__" / "modeling.pyc")
    merge(base, [task], out, force=True, scale=0.25)
    assert files(out) == ["README.md", "code/modeling.py", "config.json", "model.safetensors", "receipt.json"]


@pytest.mark.parametrize(
    "receipt", ['{"format": "shop/1", "total": 5}', "[1]", "{", '{"format": "prefmerge-receipt/1"}']
)
def test_case_13_a_receipt_of_something_else_allows_nothing(tmp_path: Path, receipt: str) -> None:
    base, task = put(tmp_path / "base.safetensors", state(0)), put(tmp_path / "t.safetensors", state(1))
    write(tmp_path / "shop" / "receipt.json", receipt)
    with pytest.raises(OutputExists, match=r"was not written by prefmerge, or is damaged.*even with --force"):
        merge(base, [task], tmp_path / "shop", force=True)
    assert files(tmp_path / "shop") == ["receipt.json"]


def test_case_13_an_output_of_the_first_versions_is_replaced(tmp_path: Path) -> None:
    base, task = put(tmp_path / "base.safetensors", state(0)), put(tmp_path / "t.safetensors", state(1))
    out = tmp_path / "out"
    merge(base, [task], out)
    receipt = json.loads((out / "receipt.json").read_text())
    del receipt["output"]["beside"]
    write(out / "receipt.json", receipt)
    merge(base, [task], out, force=True, scale=0.25)
