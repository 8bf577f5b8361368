"""The number in what a command printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefmerge.target.by_command.number import MeasuredNumber, NoNumber, in_json, printed


@pytest.mark.parametrize(
    ("text", "value", "error"),
    [
        ("0.5\n", 0.5, None),
        ("step 1 of 7, loss 3.0\nperplexity: 12.25\ndone, thank you\n", 12.25, None),
        ("-1e-3", -0.001, None),
        ("accuracy +.5", 0.5, None),
        ("53.2%", 53.2, None),
        ("\x1b[32mscore 4\x1b[0m", 4.0, None),
        ("  3%|    | 1/7\rscore 9\n", 9.0, None),
        ("accuracy 0.61 ± 0.02", 0.61, 0.02),
        ("accuracy 0.61 +- 0.02", 0.61, 0.02),
        ("0.61+/-0.02", 0.61, 0.02),
        ("arc2 of v1.2b: 7", 7.0, None),
        ("info: nana banana\n8", 8.0, None),
        ("0.61+-0.02", 0.61, 0.02),
        ("/runs/checkpoint-34/model of 2026-11-29.json: 0.5", 0.5, None),
    ],
)
def test_the_last_line_with_a_number(text: str, value: float, error: float | None):
    assert printed(text) == MeasuredNumber(value, error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it printed nothing"),
        ("done\n", "it printed no number"),
        ("wrote /tmp/run-34/step-7.log\n", "it printed no number"),
        ("loss nan", "the number is nan; expected a finite one"),
        ("-inf", "the number is -inf; expected a finite one"),
        ("5\nloss 3 accuracy 0.5", "the last line with a number has several: 'loss 3 accuracy 0.5'. Print one, or one"),
        ("7: 0.61 +- 0.02", "the last line with a number has several: '7: 0.61 +- 0.02'"),
        ("1,234.5", "the last line with a number has several: '1,234.5'"),
    ],
)
def test_what_is_no_number(text: str, message: str):
    with pytest.raises(NoNumber) as error:
        printed(text)
    assert str(error.value).startswith(message)


def test_a_key_in_json_that_was_printed_or_left_in_files(tmp_path: Path):
    text = 'loading\n{"other": 1}\n{"results": {"arc": {"acc,none": 0.25, "acc_stderr,none": 0.01}}}\nbye {x}\n'
    assert in_json(text, "results/arc/acc,none") == MeasuredNumber(0.25, 0.01)
    assert in_json('{\n "a": {\n  "b": 3\n }\n}\n', "a/b") == MeasuredNumber(3.0)
    older, newer, other = (tmp_path / name for name in ("older.json", "newer.json", "other.json"))
    older.write_text('{"score": 1, "score_stderr": "N/A"}')
    newer.write_text('{"score": 2}')
    other.write_text("[1]")
    for age, file in enumerate((other, newer, older)):
        os.utime(file, (1e9 - age, 1e9 - age))
    assert in_json('{"score": 3}', "score", [older, newer, other]) == MeasuredNumber(2.0)
    assert in_json("", "score", [older]) == MeasuredNumber(1.0)
    for key in ("score/deep", "none", "results"):
        with pytest.raises(NoNumber, match=f"no JSON that it printed, or left in {{out}}, has a number at '{key}'"):
            in_json(text, key, [older])
    with pytest.raises(NoNumber, match="the number is nan"):
        in_json('{"score": NaN}', "score")


def test_a_star_in_a_key_is_any_one_name():
    text = '{"results": {"dev": {"acc,none": 0.25, "acc_stderr,none": 0.01}, "other": {"f1,none": 1}, "n": 3}}'
    assert in_json(text, "results/*/acc,none") == MeasuredNumber(0.25, 0.01)
    assert in_json(text, "*/*/f1,none") == MeasuredNumber(1.0)
    with pytest.raises(NoNumber, match=r"has a number at 'results/\*/em,none'"):
        in_json(text, "results/*/em,none")
    both = text.replace("f1,none", "acc,none")
    with pytest.raises(NoNumber, match=r"there are numbers at 'results/dev/acc,none', 'results/other/acc,none'; name"):
        in_json(both, "results/*/acc,none")
    assert in_json('{"*": {"a": 1}}', "*/a") == MeasuredNumber(1.0)
