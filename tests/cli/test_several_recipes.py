"""`prefmerge merge` and `plan` of a file with several recipes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_commands import Call, contents

SEVERAL = """merge_method: task_arithmetic
base_model: base.safetensors
models: [{model: half}, {model: birds.safetensors}]
---
name: half
merge_method: last
base_model: base.safetensors
models: [{model: cars.safetensors}]
"""


def test_a_file_of_several_recipes(call: Call, folder: Path) -> None:
    (folder / "several.yaml").write_text(SEVERAL)
    before = contents(folder)
    done = call("plan several.yaml")
    assert (done.code, done.stderr) == (0, "")
    headings = [line for line in done.stdout.splitlines() if line.startswith("merged")]
    assert headings == ["merged-parts/half, of 'half':", "merged, of the document without a name:"]
    assert done.stdout.endswith(
        "task_arithmetic of base.safetensors, half and birds.safetensors. It can be planned when half is there.\n"
    )
    assert contents(folder) == before
    done = call("merge several.yaml -o out --dtype float32")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.index("Output:  out-parts/half") < done.stdout.index("Output:  out (")
    assert call("verify out --rerun").code == call("verify out-parts/half --rerun").code == 0
    done = call("merge several.yaml -o out")
    assert done.code == 1
    assert "out-parts/half: already exists" in done.stderr
    data = json.loads(call("merge several.yaml -o out --force --json").stdout)
    assert [(one["name"], one["receipt"]["recipe"]["method"]) for one in data["recipes"]] == [
        ("half", "last"),
        (None, "task_arithmetic"),
    ]
    plans = json.loads(call("plan several.yaml --json").stdout)["recipes"]
    assert [(one["name"], one["needs"], one["plan"] is None) for one in plans] == [
        ("half", [], False),
        (None, ["half"], True),
    ]
    assert call("merge several.yaml -o out --force --tokenizer-from cars").code == 2
