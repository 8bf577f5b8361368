"""Damage to bytes, to JSON values and to lines of text, drawn from a seeded generator.

A damaged value is as often of a plausible kind as it is nonsense: readers that check the types alone are to fail too.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

INTERESTING: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30, -(10**30), 10**4000),
    *(0.0, -0.0, 0.5, 1e-320, 1e300, -1e39, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "-1", "1/0", "1e400", "nan", "t1", "tensor", "model", "a.w", "../x", "/", "/dev/null", "~", "#k"),
    *("\x1b[2Jx", "a\nerror: b", "\u202ex", "\ud800", "\x00", "x" * 5000, "=1+1", "{}", "[]", "F32", "merged", "tied"),
    *([], {}, [[]], [None], [1, 2], ["t1", -1], {"x": 1}, {"": {}}, {"x": float("inf")}),
)
TOKENS = (
    *("- ", ": ", "[", "]", "{", "}", "<<: *a\n", "&a ", "*a", "!!int x", "!!python/object:x.y ", "|\n", ">\n", "? "),
    *("---\n", "\t", '"', "'", "0x_", "1e999999999", "1:2:3", "~", "\x00", "\x1b[2J", "\u2028", "é", "@", "%YAML"),
)


def of_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to four changes anywhere in the bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:end] = rng.randbytes(end - at)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:end] = rng.choice((b"\x00", b"\xff")) * (end - at)
            case 5:
                del data[at:]
            case _:
                data[at:at] = rng.choice(TOKENS).encode("utf-8", "surrogatepass")
    return bytes(data)


def of_lines(rng: random.Random, content: bytes) -> bytes:
    """Changes of whole lines and of words in them; now and then of bytes."""
    if rng.random() < 0.2:
        return of_bytes(rng, content)
    lines = content.decode().splitlines(keepends=True)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                lines[at] = " " * rng.randrange(5) + lines[at]
            case 3:
                key, colon, _ = lines[at].partition(":")
                lines[at] = f"{key}{colon} {_written(rng.choice(INTERESTING))}\n"
            case 4:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(TOKENS) + lines[at][cut:]
            case _:
                lines[at] = lines[at].replace(": ", ": " + rng.choice(TOKENS), 1)
    return "".join(lines).encode("utf-8", "surrogatepass")


def of_json(rng: random.Random, content: bytes) -> bytes:
    """Changes of values, keys and shape; now and then of bytes."""
    if rng.random() < 0.2:
        return of_bytes(rng, content)
    value = json.loads(content)
    try:
        for _ in range(rng.randint(1, 3)):
            value = _changed(rng, value)
        text = _written(value)
    except RecursionError:  # deeper than Python writes
        text = "[" * 3000
    if rng.random() < 0.1:
        text = text.replace(":", f":{rng.choice(('[' * 200, '9' * 5000, '1e999', 'NaN'))},", 1)
    return text.encode("utf-8", "surrogatepass")


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=random.Random(len(str(type(value)))).random() < 0.9)


def _changed(rng: random.Random, value: Any) -> Any:
    """The value with one of its parts changed."""
    places = list(_places(value, ()))
    path = rng.choice(places)
    if not path:
        return rng.choice((rng.choice(INTERESTING), [value], {"x": value}, value, value))
    parent, key = value, path[-1]
    for step in path[:-1]:
        parent = parent[step]
    other = value
    for step in rng.choice(places):
        other = other[step]
    match rng.randrange(8):
        case 0:
            del parent[key]
        case 1 | 2 | 3:
            parent[key] = copy.deepcopy(rng.choice(INTERESTING))
        case 4:
            parent[key] = copy.deepcopy(other)
        case 5:
            parent[key] = _near(rng, parent[key])
        case 6 if isinstance(parent, dict):
            parent[str(rng.choice(("", "x", *map(str, parent), "\x1b[1m", "a" * 3000)))] = parent.pop(key)
        case _:
            parent[key] = rng.choice(([parent[key]], {"x": parent[key]}, _deep(parent[key], rng.choice((3, 80, 900)))))
    return value


def _near(rng: random.Random, value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + rng.choice((-1, 1, 0.5, 1000))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("", "x", "\x1b", "/", "\n", "0")) + value[at + 1 :]
    if isinstance(value, list):
        return [*value, *value[:1]] if rng.random() < 0.5 else value[:-1]
    return value


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if len(path) > 12:
        return
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*path, key))
    elif isinstance(value, list):
        for i, part in enumerate(value[:20]):
            yield from _places(part, (*path, i))
