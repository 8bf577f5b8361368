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


RACES = [(kind, processes, force) for kind in ("file", "folder") for processes, force in ((2, 0), (3, 0), (3, 1))]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, list[list[str]]]:
    """Where all races were run, and what they printed, by race."""
    rounds = request.config.getoption("--attacks") or ROUNDS
    place = tmp_path_factory.mktemp("races")
    asked = [f"{kind},{force},{processes}" for kind, processes, force in RACES]
    command = [sys.executable, racing.__file__, str(place), str(rounds), *asked]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == rounds * len(RACES)
    return place, [lines[i * rounds : (i + 1) * rounds] for i in range(len(RACES))]


@pytest.mark.parametrize(("kind", "processes", "force"), RACES)
def test_attack_s1_processes_at_once(
    raced: tuple[Path, list[list[str]]], kind: str, processes: int, force: int
) -> None:
    place, printed = raced
    lines = printed[RACES.index((kind, processes, force))]
    counts = counted(place / f"{kind},{force},{processes}", kind, bool(force), lines)
    assert counts["won"] + counts["refused"] == processes * len(lines)


def counted(place: Path, kind: str, force: bool, lines: list[str]) -> dict[str, int]:
    """Check each round, and return how many processes wrote an output and how many were refused, and how."""
    counts: dict[str, int] = dict.fromkeys(("won", "refused", "busy", "meanwhile"), 0)
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
