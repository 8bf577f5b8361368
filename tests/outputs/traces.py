"""What a file that is published must not tell: where it was made, by whom, and on which machine."""

from __future__ import annotations

import getpass
import re
import socket
from pathlib import Path


def traces(out: Path, *more: str | Path) -> list[str]:
    """Which files of an output, a folder or a file with its receipt, hold the home, the user, the host or `more`."""
    beside = [out, out.with_name(f"{out.name}.receipt.json")]
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else beside
    assert files, "an output has files"
    users = {getpass.getuser(), Path.home().name} - {"root"}  # a word as any other
    words = [re.escape(str(one)) for one in (*more, Path.home()) if str(one) != "/root"]
    words += [rf"\b{re.escape(name)}\b" for name in (*users, socket.gethostname())]
    texts = {path: text_of(path).decode("utf-8", "replace") for path in files if path.suffix != ".png"}
    return [f"{path.name}: {word}" for path, text in texts.items() for word in words if re.search(word, text)]


def text_of(path: Path) -> bytes:
    """What is in a file; of weights, their header."""
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")] if path.suffix == ".safetensors" else content
