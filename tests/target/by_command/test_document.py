"""docs/any-model.md: its commands can be typed, its script runs, its tables say what the code does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from prefmerge.cli import app
from prefmerge.target.by_command.command import WORDS, Command
from prefmerge.target.by_command.judge import PART
from prefmerge.target.by_command.number import MeasuredNumber, in_json
from prefmerge.target.by_command.space import SCALES
from prefmerge.target.parameters import Parameters, SearchParameters
from prefmerge.target.parameters.adapt import NOT_OF_SCORE
from tests.target.by_command.test_space import space

PAGE = (Path(__file__).parents[3] / "docs" / "any-model.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (prefmerge search (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
OF_ADAPT = re.findall(r"^    (prefmerge adapt (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)


def given(command: str) -> dict[str, Any]:
    """The parameters that a command of the page gives."""
    group: Any = typer.main.get_command(app)
    _, name, *words = shlex.split(command.replace("\\\n", " "))
    context = group.get_command(None, name).make_context(name, words)
    return {one: value for one, value in context.params.items() if one not in ("json", "check") and value is not None}


def asked(command: str) -> SearchParameters:
    return SearchParameters.of(**given(command))


def test_the_commands_of_adapt_are_some():
    stated, by_labels = (Parameters.of(**given(command)) for command in OF_ADAPT)
    assert stated.prefer is not None
    assert by_labels.unordered
    for one in (stated, by_labels):
        for text, flag in ((one.score, "--score"), (one.confirm, "--confirm")):
            assert text is None or "$PREFMERGE" in Command(text, flag).line().replace("{", "")
    assert stated.confirm is not None
    refused = re.search(r"What needs a model that prefmerge runs is refused: (.*?)\. In Python", PAGE, re.DOTALL)
    assert refused is not None
    for flag in re.findall(r"`--([a-z-]+)`", refused[1]):
        assert flag.replace("-", "_") in NOT_OF_SCORE


def test_every_command_of_the_page_is_one():
    first, lm_eval = map(asked, COMMANDS)
    assert first.lower_is_better
    assert [path.name for path in first.checkpoints] == ["base", "math", "code"]
    assert lm_eval.space == "weights:4"
    for one in (first, lm_eval):
        for text, flag in ((one.score, "--score"), (one.confirm, "--confirm")):
            assert text is not None
            assert "$PREFMERGE" in Command(text, flag).line().replace("{", "")
    # lm-eval 0.4.13 writes such a file, in a folder of its own below --output_path
    results = '{"results": {"dev": {"name": "dev", "alias": "dev", "sample_len": 10, "acc,none": 0.5, '
    results += '"acc_stderr,none": 0.25}}, "group_subtasks": {}, "n-shot": {"dev": 0}}'
    assert lm_eval.score_key is not None
    for task in ("dev", "held_out"):  # the key is that of both commands
        assert in_json(results.replace('"dev"', f'"{task}"'), lm_eval.score_key) == MeasuredNumber(0.5, 0.25)


def test_the_tables_and_the_numbers_are_those_of_the_code():
    tables = [re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for text in re.split(r"^## ", PAGE, flags=re.M)]
    placeholders, searched = (table for table in tables if table)
    assert [one.strip("`{}") for one in placeholders] == list(WORDS)
    for cell in searched:
        for part in re.findall(r"`([^`]+)`", cell.replace("\\|", "|")):
            fixed = "=" in part and "|" not in part and ".." not in part
            assert space(f"{part},scale" if fixed else part).dials
    assert "weights at " + ", ".join(SCALES[:-1]) + f" and {SCALES[-1]}" in PAGE.replace("\n", " ")
    assert PART == 3
    defaults = SearchParameters(checkpoints=(Path("a"), Path("b")), score="x {model}", out=Path("c"))
    assert f"`--trials` ({defaults.trials})" in PAGE
    assert f"`--patience` ({defaults.patience})" in PAGE
    assert f"`--batch` candidates ({defaults.batch})" in PAGE
    assert f"`--max-memory` ({defaults.max_memory})" in PAGE


def test_the_script_of_the_page_prints_a_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = {word: i for i, word in enumerate(("[UNK]", "the", "cat", "dog", "sees"))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained("base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(words), **sizes)).eval()
    model.save_pretrained("base")
    (tmp_path / "dev.txt").write_text("the cat sees the dog\nthe dog sees\n")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "perplexity.py").write_text(script)
    command = asked(COMMANDS[0]).score
    assert command is not None
    line = command.replace("python", shlex.quote(sys.executable), 1).replace("{model}", "base")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    printed = subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
    with torch.no_grad():
        rows = [torch.tensor([[1, 2, 4, 1, 3]]), torch.tensor([[1, 3, 4]])]
        losses = [model(row, labels=row).loss for row in rows]
    assert printed.startswith("perplexity: ")
    assert float(printed.split()[-1]) == pytest.approx(float(torch.stack(losses).mean().exp()), rel=1e-4)
