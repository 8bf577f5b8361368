"""Does this version write the same bytes as another one?

Every method, with its selections, scopes, importances and preferences, merges the problems of tests/methods/problems.py
(ties, zeros, empty and 0-d tensors) and generated checkpoints in float32, float16, bfloat16 and a mix of the three, at
two block sizes; and mergekit's recipes of tests/golden. Both versions do it through their command line, in one process
each, side by side (`benchmarks.merge_in_a_row`). Compared: exit codes, the SHA-256 of the weights, and receipts without
IGNORED. Merges that one version refuses and the other does not are counted too. About two minutes on two cores. Writes
`results/same_bytes.json`; exit code 1 where weights differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from benchmarks import common
from benchmarks.make_checkpoints import DTYPES, make
from prefmerge.methods import METHODS
from tests.methods.problems import state_dicts

GOLDEN = common.ROOT / "tests" / "golden"
IGNORED = ("run", "output.path")  # of a receipt: when and where it was made
BLOCKS = ((1 << 16, 1), (1000, 2))  # elements read at a time, threads
SHARES = "0.7,0,0.3"
PROBLEMS = (1, 3, 5)  # tasks
SHOWN = 20  # differences that the result lists
Outcomes = Sequence[Mapping[str, Any]]


def variants(method: str, tasks: int) -> list[list[str]]:
    """Flags of one method."""
    prefer = [["--prefer", spec] for spec in ("alpha:2", *([SHARES] if tasks == 3 else []))]
    if method == "tunable_magmax":
        kinds = product(("paper", "optimal", "printed"), ("magnitude", "step"), ("tensor", "model"))
        chosen = [["--selection", s, "--importance", i, "--scope", where] for s, i, where in kinds]
        dials = [
            ["--strength", "0.5"],
            ["--carry", "0.5"],
            ["--toward-last", "0.25"],
            ["--passes", "3"],
            ["--seed", "7"],
        ]
        every = [[*one, *spec] for one in chosen for spec in prefer]
        every += [["--selection", "paper", "--importance", "magnitude", *dial] for dial in dials]
        return [[*one, "--scale", "0.5"] for one in every]  # defaults may differ between versions
    if method == "increments":
        return [[*one, *spec] for one in ([], ["--boost", "2", "--drop", "0.5"]) for spec in prefer]
    return {
        "ties": [[], ["--density", "0.5", "--scope", "model"]],
        "magmax": [[], ["--as-task-vector"], ["--dtype", "float32"], ["--exclude", "*bias"]],
        "random_mix": [[], ["--seed", "7"]],
    }.get(method, [[], ["--scale", "0.7"]])


def checkpoints(folder: Path, toy: bool) -> Iterator[tuple[str, list[Path]]]:
    """(name, base and tasks) of everything that every method merges."""
    for count in PROBLEMS[:1] if toy else PROBLEMS:
        base, tasks = state_dicts(count, seed=count)
        files = [folder / f"problem-{count}" / f"{name}.safetensors" for name in ("base", *map(str, range(count)))]
        files[0].parent.mkdir()
        for file, tensors in zip(files, (base, *tasks), strict=True):
            save_file(tensors, file)
        yield f"problem of {count}", files
    made = {}
    for dtype in () if toy else DTYPES:
        base, tasks = make(folder / dtype, model="toy", tasks=3, dtype=dtype)
        made[dtype] = [base, *tasks]
        yield dtype, made[dtype]
    if made:
        kinds = ("bfloat16", "float32", "float16", "bfloat16")
        yield "mixed", [made[kind][number] for number, kind in enumerate(kinds)]


def jobs(folder: Path, methods: Sequence[str], toy: bool) -> list[dict[str, Any]]:
    """What `merge_in_a_row` does, with a title for each."""
    every = []
    for (name, files), method in product(checkpoints(folder, toy), methods):
        if len(files) <= METHODS[method].fewest:
            continue
        most = METHODS[method].most
        merged = list(map(str, files if most is None else files[: 1 + most]))
        for number, flags in enumerate(variants(method, len(files) - 1)):
            shown = ["--method", method.replace("_", "-"), *flags]
            for block, threads in [BLOCKS[number % len(BLOCKS)]] if toy else BLOCKS:
                every.append((f"{name}: {' '.join(shown)}", [*merged, *shown], ".safetensors", block, threads))
    for recipe in sorted(GOLDEN.glob("*.yml"))[: 1 if toy else None]:
        every.append((f"golden: {recipe.name}", [recipe.name], "", *BLOCKS[0]))
    return [
        {
            "title": f"{title} (block {block})",
            "arguments": ["merge", *arguments, "--threads", str(threads)],
            "cwd": str(GOLDEN),
            "out": f"merged-{n}{suffix}",
            "block": block,
        }
        for n, (title, arguments, suffix, block, threads) in enumerate(every)
    ]


def outcomes(source: Path, folder: Path, what: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the version in `source` (its folder `src`) makes of the jobs, in a folder of its own."""
    folder.mkdir()
    asked, answer = folder / "jobs.json", folder / "outcomes.json"
    asked.write_text(json.dumps(what), encoding="utf-8")
    script = Path(__file__).with_name("merge_in_a_row.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(asked), str(answer)],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{source}: {done.stderr.strip()}")
    answers = json.loads(answer.read_text(encoding="utf-8"))
    assert Path(answers["source"]) == (source / "prefmerge").resolve(), f"{source}: merged with {answers['source']}"
    return answers["outcomes"]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """A receipt as {dotted key: number or text}, without IGNORED."""
    if key in IGNORED:
        return {}
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in parts for k, v in flat(part, f"{key}.{name}" if key else str(name)).items()}
    return {key: value}


def compare(
    titles: Sequence[str], old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How many of the pairs are the same, and what differs in the others."""
    counts, keys, differences = Counter[str](), Counter[str](), []
    for title, one, other in zip(titles, old, new, strict=True):
        if one["code"] and other["code"]:
            kind = "refused by both"
        elif one["code"] or other["code"]:
            kind = "refused by the old" if one["code"] else "refused by the new"
        elif one["weights"] != other["weights"]:
            kind = "weights differ"
        else:
            a, b = flat(one["receipt"]), flat(other["receipt"])
            changed = [key for key in {**a, **b} if key not in a or key not in b or a[key] != b[key]]
            keys.update({"tensors" if key.startswith("tensors.") else key for key in changed})
            kind = "receipts differ" if changed else "same"
        counts[kind] += 1
        if kind in ("weights differ", "refused by the old", "refused by the new"):
            said = one.get("said") or other.get("said") or ""
            differences.append({"what": title, "kind": kind, "said": said.strip()[-300:]})
    merged = sum(counts[kind] for kind in ("same", "receipts differ", "weights differ"))
    return {
        "merges_compared": merged,
        "weights_that_differ": counts["weights differ"],
        "counts": dict(sorted(counts.items())),
        "receipt_keys_that_differ": dict(keys.most_common()),
        "differences": differences[:SHOWN],
    }


def run(old: Path, new: Path, methods: Sequence[str], toy: bool = False) -> dict[str, Any]:
    """The two versions compared. `old`, `new`: their folders `src`."""
    began, versions = common.provenance(), {"old": old, "new": new}
    with tempfile.TemporaryDirectory() as scratch:
        what = jobs(Path(scratch), methods, toy)
        with ThreadPoolExecutor(2) as pool:
            sides = [pool.submit(outcomes, source, Path(scratch, name), what) for name, source in versions.items()]
        first, second = (side.result() for side in sides)
    return {
        "question": common.question(__doc__),
        **began,
        **{name: common.commit_of(source) for name, source in versions.items()},
        "ignored_of_receipts": list(IGNORED),
        **compare([job["title"] for job in what], first, second),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=common.question(__doc__),
        epilog="git worktree add --detach /tmp/old COMMIT && python -m benchmarks.same_bytes /tmp/old/src",
    )
    parser.add_argument("old", type=Path, help="the folder src of another version")
    parser.add_argument("new", type=Path, nargs="?", default=common.ROOT / "src", help="default: this one's")
    parser.add_argument(
        "--toy", action="store_true", help="one small problem and one recipe, at one of the block sizes each"
    )
    parser.add_argument("--result", type=Path, default=common.RESULTS / "same_bytes.json")
    asked = parser.parse_args(arguments)
    data = run(asked.old.resolve(), asked.new.resolve(), list(METHODS), asked.toy)
    common.write_result(asked.result, data)
    print(f"{data['merges_compared']} merges compared, {data['weights_that_differ']} differ: {data['counts']}")
    if data["weights_that_differ"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
