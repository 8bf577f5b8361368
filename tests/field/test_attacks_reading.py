"""Numbers, recipes and files that ask for more than there is: one message, at once."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prefmerge.checkpoints import open_checkpoint, safetensors_file
from prefmerge.errors import CheckpointCorrupt, PrefmergeError
from prefmerge.ground import disk, jsons
from prefmerge.ground.disk import read_text_file
from prefmerge.shown import LONGEST
from tests.field.attacked import RECIPE, call, make, refused


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


# M1: numbers


@pytest.mark.parametrize(
    ("flag", "value", "saying"),
    [
        ("--scale", "1e400", "scale: expected a finite number, found '1e400'"),
        ("--scale", "-1e309", "expected a finite number"),
        ("--scale", "1e39", "expected a number that float32 holds"),
        ("--scale", "9" * 5000, "expected a finite number"),
        ("--max-memory", "1e999999999", "is not a size"),
        ("--max-memory", "1e-999999999", "is not a size"),
        ("--max-memory", "1/0", "is not a size"),
        ("--seed", "9" * 5000, "seed"),
        ("--strength", "1e-999999999", "strength"),
        ("--prefer", "alpha:1e999999999", "is beyond any share or scale"),
        ("--prefer", "@/dev/zero", "it is a pipe, a device or the like"),
        ("--prefer", "@a\0b", "preference file"),
        ("--prefer", "@" + "a" * 5000, "preference file"),
    ],
)
def test_attack_m1_flags(inputs: list[str], flag: str, value: str, saying: str) -> None:
    refused("merge", *inputs, "-o", "out.safetensors", flag, value, saying=saying)
    assert not Path("out.safetensors").exists()


# M1, M2: recipes


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        (RECIPE + "parameters: {scale: 1e309}", "line 4: parameters.scale: expected a finite number, found '1e309'"),
        (RECIPE + "seed: 0x_", "line 4: seed: expected a finite number, found '0x_'"),
        (RECIPE + "seed: !!int foo", "line 4: seed: expected a finite number, found 'foo'"),
        (RECIPE + "seed: " + "9" * 5000, "line 4: seed"),
        (RECIPE + "parameters: {normalize: !!bool foo}", "expected true or false, found 'foo'"),
        (RECIPE + 'parameters: {prefer: "@/dev/zero"}', "it is a pipe, a device or the like"),
        ("[" * 5000, "it is nested too deeply"),
        ("{" * 5000, "it is nested too deeply"),
        ("- " * 5000, "it is nested too deeply"),
        (RECIPE + "x: " + "[" * 5000, "line 4: this is not YAML: it is nested too deeply"),
        (RECIPE.replace("t1.safetensors", "x" * 5000), "is neither in the recipe's folder"),
        (RECIPE.replace("t1.safetensors", '"a\\0b"'), "is neither in the recipe's folder"),
        (RECIPE.replace("t1.safetensors", '"\\ud800"'), "is neither in the recipe's folder"),
        (RECIPE.replace("t1.safetensors", "~nobody-at-all/x"), "is neither in the recipe's folder"),
        ("<<: 3\n", "expected a mapping or list of mappings for merging"),
        (RECIPE.replace("models: ", "models: &m ").replace("]\n", ", *m]\n"), "it holds itself"),
    ],
)
def test_attack_m1_recipes(inputs: list[str], text: str, saying: str) -> None:
    Path("r.yaml").write_text(text)
    refused("merge", "r.yaml", "-o", "out.safetensors", saying=saying, code=1)


@pytest.mark.parametrize("key", ["<<", "x"])
def test_attack_m2_aliases_that_multiply(inputs: list[str], key: str) -> None:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} {{{key}: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9)]
    Path("r.yaml").write_text("\n".join(lines))
    for command in (
        ("merge", "r.yaml", "-o", "out"),
        ("finetune", "r.yaml", "-o", "out"),
        ("bench", "r.yaml", "-o", "o"),
    ):
        assert "it has more than 100,000 values" in refused(*command, code=1)


@pytest.mark.parametrize("name", ["r.yaml", "c.json"])
def test_attack_m2_a_text_file_without_an_end(
    tmp_path: Path, inputs: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(disk, "MOST_TEXT", 1000)
    Path(name).write_text("x: " + "y" * (1 << 20))
    words = ("merge", name) if name == "r.yaml" else ("merge", *inputs, "--prefer", f"@{name}")
    refused(*words, "-o", "out", saying="bytes", code=1)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link in a circle"])
def test_attack_m2_what_is_no_text_file(tmp_path: Path, inputs: list[str], kind: str) -> None:
    place = Path("x.yaml")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("x.yaml")
    refused("plan", place, code=1)
    refused("plan", *inputs, "--prefer", f"@{place}", code=1)
    with pytest.raises(OSError, match=r"x\.yaml"):
        read_text_file(place)


# M1: JSON that is nested deeply


@pytest.mark.parametrize("depth", [70, 3000, 200_000])
def test_attack_m1_deep_json(tmp_path: Path, inputs: list[str], depth: int) -> None:
    deep = "[" * depth + "]" * depth
    for name, words in {
        "p.json": ("plan", *inputs, "--prefer", "@p.json"),
        "run/run.json": ("merge", "--run", "run", "-o", "out"),
        "base.safetensors.receipt.json": ("verify", inputs[0]),
        "receipt.json": ("inspect", "receipt.json"),
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f'{{"format": "prefmerge-receipt/1", "x": {deep}}}')
        refused(*words, saying="nested too deeply", code=1)


@pytest.mark.parametrize("name", ["config.json", "model_index.json", "modules.json", "vocab.json"])
def test_attack_m1_deep_files_beside_a_base(tmp_path: Path, inputs: list[str], name: str) -> None:
    """What other programs wrote says nothing where it cannot be read."""
    Path("folder").mkdir()
    Path(inputs[0]).rename("folder/model.safetensors")
    Path("folder", name).write_text("[" * 3000 + "]" * 3000)
    assert call("merge", "folder", *inputs[1:], "-o", "out", "--dtype", "float16").code == 0
    assert Path("out", name).read_bytes() == Path("folder", name).read_bytes()


def test_attack_m1_more_objects_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsons, "MOST", 10)
    with pytest.raises(jsons.NotJson, match="more than 10 lists and objects"):
        jsons.decoded("[" + "{}," * 10 + "{}]")


# M1: paths


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "a\udc80b", "/proc/self/mem", "", "/"])
@pytest.mark.parametrize("command", ["base", "out", "verify", "inspect", "run", "recipe"])
def test_attack_m1_paths(inputs: list[str], path: str, command: str) -> None:
    base, *tasks = inputs
    words = {
        "base": ("merge", path, *tasks, "-o", "out"),
        "out": ("merge", base, *tasks, "-o", f"missing\0/{path}" if path == "a\udc80b" else path),
        "verify": ("verify", path),
        "inspect": ("inspect", path),
        "run": ("merge", "--run", path, "-o", "out"),
        "recipe": ("plan", f"{path}.yaml"),
    }[command]
    refused(*words)


# S2, M8: headers


def header(entries: Any, body: int = 4) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def entry(**given: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **given}}


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        (header(entry(shape=[10**4000])), "the shape [<a whole number of 13,288 bits>]"),
        (header(entry(shape=[(1 << 63) - 1] * 64)), "more than any file holds"),
        (header(entry(shape=[1 << 63])), "the shape"),
        (header(entry(shape=[1] * 65)), "the shape [1, 1, 1, 1, ...]"),
        (header(entry(shape=[0, 1 << 62, 1 << 62])), "needs 0 bytes and is given 4"),
        (header(entry(data_offsets=[0, 10**4000])), "the data_offsets"),
        (header(entry(shape="x" * 10**6)), "the shape 'xxx"),
        (header(entry(dtype="x" * 10**6)), "has dtype 'xxx"),
        (header({"n" * 10**5: {"dtype": "F32"}}), "its header gives tensor"),
        (header(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"), "its header gives tensor 'a' no dtype"),
        (header(b'{"a":{"dtype":"","data_offsets":0,"shape":' + b"[" * 900 + b"]" * 900 + b"}}"), "the shape [[["),
        (header(b"[" * 200_000), "more lists and numbers than tensors need"),
        (header(b'{"a":[' + b"1," * 200_000 + b"1]}"), "more lists and numbers than tensors need"),
        (header(b"[" * 50_000), "not JSON"),
    ],
)
def test_attack_s2_headers(tmp_path: Path, content: bytes, saying: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(PrefmergeError) as raised:
        open_checkpoint(path)
    assert saying in str(raised.value)
    assert len(str(raised.value)) <= LONGEST


def test_attack_s2_a_header_of_nothing_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed, 33 million empty lists take gigabytes."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(b'{"a":[' + b"[]," * (1 << 20) + b"[]]}"))
    monkeypatch.setattr(safetensors_file.json, "loads", None)
    with pytest.raises(CheckpointCorrupt, match="more lists and numbers than tensors need"):
        open_checkpoint(path)


# M1, M2: files of torch


def test_attack_m1_tensors_that_are_no_arrays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="a .pt file needs the torch extra")
    one = torch.ones(1)
    for tensor, saying in (
        (one.expand(10**11), "repeats few elements until they take 400000000000 bytes"),
        (one.expand(10**5, 10**5), "repeats few elements"),
        (one.as_strided((1 << 28,), (0,)), "repeats few elements"),
        (torch.ones(2, 3).to_sparse(), "sparse_coo tensor"),
    ):
        torch.save({"a.w": tensor}, tmp_path / "x.pt")
        with pytest.raises(PrefmergeError, match=saying):
            open_checkpoint(tmp_path / "x.pt")
    torch.save({"a.w": one.expand(6, 5)}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").raw("a.w").size == 30


@pytest.mark.parametrize("how", ["zip", "old", "pairs"])
def test_attack_m2_a_pickle_that_torch_reads_for_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    torch = pytest.importorskip("torch", reason="a .pt file needs the torch extra")
    from prefmerge.checkpoints import torch_file

    monkeypatch.setattr(torch_file, "MOST_STEPS", 10_000)
    monkeypatch.setattr(torch_file, "FEW_BYTES", 1000)
    monkeypatch.setattr(torch, "load", None)
    pickled = b"\x80\x02" + (b"]0" if how == "pairs" else b"]") * 20_000 + b"."
    if how == "old":
        (tmp_path / "x.pt").write_bytes(torch_file._OLD_MAGIC + b"\x80\x02M\xe9\x03." + pickled)
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
        (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointCorrupt, match="its pickle takes more than 10,000 steps"):
        open_checkpoint(tmp_path / "x.pt")


# M4, M5: what is at the output


def test_attack_m4_a_receipt_of_others_stays(inputs: list[str]) -> None:
    for place in (Path("out.safetensors.receipt.json"), Path("deep/o.safetensors.receipt.json")):
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
        refused("merge", *inputs, "-o", str(place).removesuffix(".receipt.json"), saying="already exists", code=1)
        assert place.read_text() == "mine"


@pytest.mark.parametrize("target", ["file.safetensors", "folder", "nowhere"])
def test_attack_m5_a_link_as_output_is_said(inputs: list[str], target: str) -> None:
    if target == "folder":
        Path(target).mkdir()
    elif target == "file.safetensors":
        Path(target).write_text("old")
    link = Path("link.safetensors" if target == "file.safetensors" else "link")
    link.symlink_to(target)
    refused("merge", *inputs, "-o", link, "--force", saying="and prefmerge replaces no link", code=1)
    assert link.is_symlink()
    assert target != "file.safetensors" or Path(target).read_text() == "old"


# M7: advice that helps


@pytest.mark.parametrize(
    ("scale", "dtype", "advice"),
    [
        ("3e38", "float32", "does not fit float32. Use a smaller --scale."),
        ("3e38", "float64", "does not fit float64. Use a smaller --scale."),
        ("3e38", "bfloat16", "does not fit bfloat16. Use a smaller --scale."),
        ("1e20", "float16", "Write a wider format (--dtype bfloat16 or float32 or float64), or use a smaller --scale."),
    ],
)
def test_attack_m7_advice_about_values_that_do_not_fit(inputs: list[str], scale: str, dtype: str, advice: str) -> None:
    words = ("merge", *inputs, "-o", "out.safetensors", "--scale", scale, "--dtype", dtype)
    assert refused(*words, code=1).rstrip().endswith(advice)
    if "--dtype" in advice:
        wider = advice.partition("--dtype ")[2].partition(")")[0].split(" or ")
        for name in wider:
            assert call(*words[:-1], name, "--force").code == 0


# M1: receipts, preferences and runs that someone edited


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recipe.scale", "1e400"),
        ("recipe.selection", "best"),
        ("recipe.density", 1),
        ("recipe.preference", {"format": "prefmerge-preference/1", "kind": "shares", "values": {"x": 1}}),
        ("recipe.exclude", [1]),
        ("shares", ["1/0", "1"]),
        ("shares", ["1"]),
        ("tensors.a\u002ew.shape", [-1, "x"]),
        ("tensors", {"a": None}),
        ("totals.owned", [1]),
        ("inputs.base.path", {"x": 1}),
        ("output.fingerprint", None),
        ("run.seconds", "\x1b[2J"),
    ],
)
def test_attack_m1_edited_receipts(inputs: list[str], path: str, value: Any) -> None:
    assert call("merge", *inputs, "-o", "out", "--prefer", "0.5,0.5").code == 0
    receipt = json.loads(Path("out/receipt.json").read_text())
    part: Any = receipt
    *steps, last = [step.replace("\u2024", ".") for step in path.replace("a.w", "a\u2024w").split(".")]
    for step in steps:
        part = part[step]
    part[last] = value
    Path("out/receipt.json").write_text(json.dumps(receipt))
    for words in (("verify", "out", "--rerun"), ("inspect", "out")):
        refused(*words, saying="the receipt is damaged: ", code=1)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "prefmerge-preference/1", "kind": "shares", "values": ["1", "2"], "names": ["t1", -1]}',
        '{"format": "prefmerge-preference/1", "kind": "geometric", "values": {"x": ["2"]}}',
        '{"format": "prefmerge-preference/1", "kind": "counts", "values": ["x"]}',
        '{"format": "prefmerge-preference/1", "kind": {}, "values": []}',
        '{"counts": 3}',
        '{"t1": [1]}',
        "[[1], 2]",
        '{"t1": Infinity}',
        '"uniform"',
    ],
)
def test_attack_m1_edited_preferences(inputs: list[str], text: str) -> None:
    Path("p.json").write_text(text)
    refused("plan", *inputs, "--prefer", "@p.json", saying="preference file 'p.json'", code=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label_counts", {"x": float("inf")}),
        ("label_counts", {"x": 1.5}),
        ("file", "../t1"),
        ("classes", 3),
        ("name", []),
    ],
)
def test_attack_m1_edited_runs(inputs: list[str], key: str, value: Any) -> None:
    task = {"name": "t1", "file": "t1.safetensors", key: value}
    manifest = {"format": "prefmerge-run/1", "training": "sequential", "base": "base.safetensors", "tasks": [task]}
    Path("run.json").write_text(json.dumps(manifest))
    refused("merge", "--run", ".", "-o", "out", saying="run.json: ", code=1)
