"""Finished pieces: what is kept comes back, what is damaged or another's does not, a kill loses one at most."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from prefmerge.ground.store import Store, digest, digest_of_file

KEY, OTHER = digest({"scale": 1}), digest({"scale": 2})

WORKER = """
import sys
from pathlib import Path
from prefmerge.ground.store import Store, digest
store = Store(Path(sys.argv[1]), ".piece", sealed=True)
for number in range(10**6):
    store.write(digest(number), b"%d" % number * 1000)
    print(number, flush=True)
"""


def test_keys_are_pinned():
    """Another key, and old folders would be done anew."""
    assert digest(["a", 1, None]) == xxhash.xxh3_128_hexdigest(b'["a", 1, null]') == "b097edb1c27e0a05e28b5f28389eabe8"
    assert digest({"b": 1, "a": 2}, short=True, sort=True) == xxhash.xxh3_64_hexdigest(b'{"a": 2, "b": 1}')
    assert digest({"b": 1, "a": 2}) == xxhash.xxh3_128_hexdigest(b'{"b": 1, "a": 2}')


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path):
    for size in (0, 5, (1 << 20) + 1):
        (tmp_path / "file").write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
        assert digest_of_file(tmp_path / "file") == xxhash.xxh3_128_hexdigest((tmp_path / "file").read_bytes())


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_counts_unless_sorted(value: dict[str, int]):
    turned = dict(reversed(value.items()))
    assert digest(value) != digest(turned)
    assert digest(value, sort=True) == digest(turned, sort=True) == digest(json.loads(json.dumps(value)), sort=True)
    assert digest(value, short=True) != digest(value)


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_kept_comes_back(tmp_path: Path, sealed: bool):
    store = Store(tmp_path / "deep" / "pieces", ".piece", sealed)
    assert (store.read(KEY), store.size(), store.clear()) == (None, 0, 0)
    store.write(KEY, b"one")
    store.write(f"words-of.it-{digest(3, short=True)}", b"")
    store.write(KEY, b"two")
    again = Store(tmp_path / "deep" / "pieces", ".piece", sealed)
    assert (again.read(KEY), again.read(OTHER)) == (b"two", None)
    assert again.read(f"words-of.it-{digest(3, short=True)}") == b""
    assert store.file(KEY).read_bytes() == (xxhash.xxh3_128_digest(b"two") if sealed else b"") + b"two"
    assert store.size() == 3 + (32 if sealed else 0)


def test_what_does_not_fit_its_seal_is_absent(tmp_path: Path):
    store = Store(tmp_path, ".piece", sealed=True)
    store.write(KEY, b"content")
    content = store.file(KEY).read_bytes()
    for damaged in (b"", content[:10], content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:]):
        store.file(KEY).write_bytes(damaged)
        assert store.read(KEY) is None
    store.file(KEY).write_bytes(content)
    assert store.read(KEY) == b"content"
    store.file(KEY).unlink()
    store.file(KEY).mkdir()
    assert store.read(KEY) is None


@pytest.mark.parametrize(
    "key", ["", "../x", "/etc/passwd", f"../{KEY}", f"a/b-{KEY}", KEY.upper(), KEY[:20], f"{KEY}\n"]
)
def test_what_is_no_key_reaches_no_file(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match="expected a key that ends in a digest, found "):
        Store(tmp_path, ".piece").read(key)


def test_clear_removes_the_pieces_and_nothing_else(tmp_path: Path):
    store = Store(tmp_path, ".piece")
    store.write(KEY, b"1234")
    (tmp_path / f".{OTHER}.piece.prefmerge-0123456789ab.tmp").write_bytes(b"56")
    others = ["notes.txt", "beef.piece", f"{KEY}.other", f"{KEY}.piece.old", f".{KEY}.piece.tmpx"]
    for name in others:
        (tmp_path / name).write_text("mine")
    assert store.size() == store.clear() == 6
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others)


def test_a_kill_loses_one_piece_at_most(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        whole = process.stdout.read().split("\n")[:-1]
    last = int(whole[-1]) if whole else 4
    store = Store(tmp_path, ".piece", sealed=True)
    for number in range(last + 1):
        assert store.read(digest(number)) == b"%d" % number * 1000
    assert store.read(digest(last + 2)) is None
