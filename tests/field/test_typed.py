"""What people type that means something else than they think: empty paths, numbers and keys of YAML, output names."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefmerge.errors import ConfigError
from prefmerge.ground.yaml_file import read_mapping
from tests.field.attacked import RECIPE, call, make, refused
from tests.field.made import files, put


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("merge", "", "t1.safetensors", "-o", "x"), "an argument"),
        (("merge", "base.safetensors", "", "-o", "x"), "an argument"),
        (("merge", "--force", "", "t1.safetensors", "-o", "x"), "an argument"),  # what precedes it takes no value
        (("merge", "base.safetensors", "t1.safetensors", "-o", ""), "-o"),
        (("merge", "base.safetensors", "t1.safetensors", "--out="), "--out"),
        (("merge", "--run", "", "-o", "x"), "--run"),
        (("plan", ""), "an argument"),
        (("verify", ""), "an argument"),
        (("inspect", ""), "an argument"),
        (("prefer", "--labels", "", "--run", "x"), "--labels"),
        (("finetune", "", "-o", "x"), "an argument"),
    ],
)
def test_attack_m1_an_empty_path_is_not_the_working_directory(
    words: tuple[str, ...], what: str, inputs: list[str], tmp_path: Path
) -> None:
    """`-o $OUT` where OUT is not set."""
    before = files(tmp_path)
    refused(*words, saying=f"{what} is empty", code=2)
    assert files(tmp_path) == before


def test_attack_m1_a_report_may_stand_alone_before_an_empty_preference(inputs: list[str]) -> None:
    assert call("merge", *inputs, "-o", "x.safetensors", "--report").code == 0
    refused("merge", *inputs, "-o", "y.safetensors", "--prefer", "", saying="expected a finite number")


@pytest.mark.parametrize("out", ["-", "--force", "-x.safetensors"])
def test_case_8_an_output_that_is_called_as_a_flag_is(out: str, inputs: list[str], tmp_path: Path) -> None:
    before = files(tmp_path)
    refused("merge", *inputs, "-o", out, saying="not a name for an output", code=2)
    assert files(tmp_path) == before


def test_attack_m1_a_name_that_is_too_long_says_what_to_do(inputs: list[str]) -> None:
    for length in (200, 240, 300):
        refused("merge", *inputs, "-o", "é" * length + ".safetensors", saying="Give a shorter name.", code=1)


@pytest.mark.parametrize("position", [0, 1])
def test_case_9a_a_file_without_tensors_is_no_model(position: int, inputs: list[str], tmp_path: Path) -> None:
    put(Path(inputs[position]), {})
    refused("merge", *inputs, "-o", "x.safetensors", saying="holds no tensors. Save the model again", code=1)


@pytest.mark.parametrize(
    ("lines", "saying"),
    [
        ("seed: 010", "line 4: seed: '010' is 8 in YAML"),
        ("seed: -010", "line 4: seed: '-010' is -8 in YAML"),
        ("parameters: {scale: 1:30}", "'1:30' is 90 in YAML"),
        ("parameters: {passes: 1:00}", "'1:00' is 60 in YAML"),
    ],
)
def test_attack_m1_numbers_that_yaml_reads_otherwise(lines: str, saying: str, inputs: list[str]) -> None:
    Path("r.yaml").write_text(RECIPE + lines)
    refused("merge", "r.yaml", "-o", "x.safetensors", saying=saying, code=1)


@pytest.mark.parametrize("lines", ["seed: 0", "seed: 10", "seed: 0x10", "seed: 08", "parameters: {scale: 0.5}"])
def test_attack_m1_numbers_with_one_reading_are_read(lines: str, inputs: list[str]) -> None:
    Path("r.yaml").write_text(RECIPE + lines)
    assert call("plan", "r.yaml").code == 0


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("model: digits\nmodel: other\n", "the key 'model' is there twice"),
        ("training: {steps: 5, batch: 2, steps: 9}\n", "the key 'steps' is there twice"),
        ("x: [1, {a: 1, 'a': 2}]\n", "the key 'a' is there twice"),
        ("steps: 010\n", "'010' is 8 in YAML"),
        ("steps: [1, 2:30]\n", "'2:30' is 150 in YAML"),
        ("rate: 1:30.5\n", "'1:30.5' is 90.5 in YAML"),
    ],
)
def test_attack_m1_a_configuration_says_each_thing_once(text: str, saying: str, tmp_path: Path) -> None:
    """The last of two would count, in silence."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as YAML") as raised:
        read_mapping(tmp_path / "c.yaml", "Give one.", "model")
    assert saying in str(raised.value)


def test_attack_m1_keys_that_others_bring_may_be_set_again(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {steps: 5, batch: 2}\nb: {<<: *a, steps: 9}\n")
    assert read_mapping(tmp_path / "c.yaml", "Give one.", "a")["b"] == {"steps": 9, "batch": 2}


@pytest.mark.parametrize(
    ("key", "saying"),
    [
        ("base", "Did you mean 'base_model'?"),
        ("tasks", "Did you mean 'models'?"),
        ("merge-method", "Did you mean 'merge_method'?"),
        ("Scale", "Did you mean 'scale' in parameters?"),
        ("preference", "Did you mean 'prefer' in parameters?"),
        ("max_memory", "give --max-memory on the command line"),
        ("output", "give --out on the command line"),
    ],
)
def test_case_11_keys_in_words_of_the_command_line(key: str, saying: str, inputs: list[str]) -> None:
    Path("r.yaml").write_text(f"{RECIPE}{key}: x\n")
    refused("plan", "r.yaml", saying=saying, code=1)


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        (None, "cannot be read (Is a directory). Give a file"),
        ('{"t1": 1}'.encode("utf-16"), "it is no UTF-8 text; save it as UTF-8"),
        (b"", 'Write it with prefmerge prefer -o, or as {"TASK": SHARE, ...}'),
        (b"t1: 0.8\n", 'Write it with prefmerge prefer -o, or as {"TASK": SHARE, ...}'),
        (b'{"t1": 1, "t2": 1, "t1": 2}', "the key 't1' is there twice"),
    ],
)
def test_attack_m1_a_preference_file_says_what_to_do(content: bytes | None, saying: str, inputs: list[str]) -> None:
    path = Path("p.json")
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    refused("plan", *inputs, "--prefer", "@p.json", saying=saying, code=1)
