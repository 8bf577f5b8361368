"""Merges that run at the same time into one output: one of them makes it, whole and with its own receipt; the others
say who did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefmerge import Receipt, verify
from prefmerge.checkpoints import content_fingerprint, open_checkpoint
from prefmerge.outputs.receipts import find_receipt
from tests.merging import racing

ROUNDS = 4  # of each; what is decisive is forced in tests/outputs/test_two_writers.py


@pytest.mark.parametrize(("processes", "force"), [(2, False), (3, False), (3, True)])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_attack_s1_processes_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, processes: int, kind: str, force: bool
) -> None:
    rounds = request.config.getoption("--attacks") or ROUNDS
    counts = race(tmp_path / "race", kind, force, processes, rounds)
    assert counts["won"] + counts["refused"] == processes * rounds


def race(place: Path, kind: str, force: bool, processes: int, rounds: int) -> dict[str, int]:
    """Run the rounds, check each, and return how many processes wrote an output and how many were refused, and how."""
    command = [sys.executable, racing.__file__, str(place), kind, str(int(force)), str(processes), str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    counts: dict[str, int] = dict.fromkeys(("won", "refused", "busy", "meanwhile"), 0)
    lines = done.stdout.splitlines()
    assert len(lines) == rounds
    for n, line in enumerate(lines):
        heard = json.loads(line)
        out = place / str(n) / racing.OUT[kind]
        won = [pid for pid, code, _ in heard if code == 0]
        assert len(won) >= 1 if force else len(won) == 1, line
        pids = {pid for pid, *_ in heard}
        for pid, code, said in heard:
            if code:
                assert code == 1, line
                told = re.sub(r"\s+", " ", said)
                busy = re.search(
                    r"out(?:\.safetensors)?: another prefmerge merge \(process (\d+)\) is writing this output\. Wait",
                    told,
                )
                assert busy is None or int(busy[1]) in pids - {pid}, line
                later = re.search(
                    r": (?:another prefmerge merge has written it meanwhile|already exists)\. Choose another", told
                )
                assert busy or (later and not force), line
                counts["busy" if busy else "meanwhile"] += 1
        counts["won"] += len(won)
        counts["refused"] += len(heard) - len(won)
        receipt = find_receipt(out)
        assert receipt is not None
        assert Receipt.load(receipt).fingerprint == content_fingerprint(open_checkpoint(out))
        verify(out)
        expected = {out.name} if kind == "folder" else {out.name, f"{out.name}.receipt.json"}
        assert {path.name for path in out.parent.iterdir()} == expected
    return counts
