"""Damaged files are taken or refused: one message of at most 1,500 characters, exit 1 or 2, in less than 5 s of
the processor (a busy machine may stop for longer).

In the suite some 2,000 cases; `pytest tests/fuzz --fuzz 100000` divides so many among the kinds of files.
"""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import pytest

from prefmerge.checkpoints import input_file
from prefmerge.errors import PrefmergeError
from prefmerge.shown import LONGEST
from tests.field.attacked import is_safe
from tests.fuzz.targets import TARGETS

IN_THE_SUITE = 2_000
SECONDS = 5.0  # of this process, for one case
MEMORY = 500 << 20  # bytes that a campaign may add


@pytest.mark.parametrize("kind", TARGETS)
def test_attack_s2_m1_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: str
) -> None:
    if kind == "torch_file":
        pytest.importorskip("torch", reason="a .pt file needs the torch extra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(input_file, "TICK_NS", 0)  # or each file that was just written is waited for
    target = TARGETS[kind](tmp_path)
    for content in target.right:  # nothing is refused but damage
        target.victim.write_bytes(content)
        target.read()
    asked = request.config.getoption("--fuzz", 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = 0
    for i in range((asked or IN_THE_SUITE) // len(TARGETS)):
        rng = random.Random(f"{kind} {i}")
        content = target.damage(rng, rng.choice(target.right))
        target.victim.write_bytes(content)
        began = time.process_time()
        refusal = None
        try:
            target.read()
            taken += 1
        except PrefmergeError as error:
            refusal = error
        except BaseException as error:
            error.add_note(f"case {i} of {kind}: {content[:2000]!r}")
            raise
        if refusal is not None:
            said = str(refusal)
            assert 0 < len(said) <= LONGEST, (i, said)
            assert is_safe(said), (i, said)
            assert refusal.exit_code in (1, 2)
        assert time.process_time() - began < SECONDS, (i, content[:2000])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY
    assert taken < (asked or IN_THE_SUITE) // len(TARGETS) * 0.9
