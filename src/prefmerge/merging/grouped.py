"""A receipt of thousands of tensors, as it is written: what tensors have in common is said once.

    {"format": "prefmerge-receipt/2", ..
     "groups": [{"shape": [16], "dtype": "float32", "role": "merged", "asked": [8, 8], "owned": [8, 8]}, ..],
     "tensors": {"layers.0.weight": {"group": 0, "xxh3": "00197863fb6391e0"}, ..}}

A tensor has what its group says, and says for itself what differs. Tensors of one shape and role that have the same
keys are a group; the first of them says what it holds, but for the digest. Cost: a few dictionaries for
each tensor. Not here: what the keys mean, and receipts of few tensors, which repeat themselves (`receipt`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = "prefmerge-receipt/2"
MANY = 2_000  # tensors, from which on a receipt is written so
_SAME = ("shape", "role")  # of a tensor: what all of a group share
_OWN = "xxh3"  # of a tensor: what no other has
_MOST = 32  # keys of a group; each tensor gets a copy of them


class Damaged(ValueError):
    """A receipt that is not as this module writes it: the key that is wrong, and the problem."""


def grouped(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of a receipt in this form; `whole` gives it back."""
    groups: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], int] = {}
    tensors: dict[str, dict[str, Any]] = {}
    for name, tensor in receipt["tensors"].items():
        key = (*(str(tensor[same]) for same in _SAME), *tensor)
        group = known.setdefault(key, len(groups))
        if group == len(groups):
            groups.append({key: value for key, value in tensor.items() if key != _OWN})
        common = groups[group]
        tensors[name] = {"group": group} | {
            key: value for key, value in tensor.items() if key not in common or not _equal(common[key], value)
        }
    made: dict[str, Any] = {}
    for key, value in receipt.items():
        made |= {"groups": groups, "tensors": tensors} if key == "tensors" else {key: value}
    return made | {"format": FORMAT}


def whole(receipt: Mapping[str, Any], form: str) -> dict[str, Any]:
    """The JSON object in which every tensor says everything; `form`: its format. Raises Damaged."""
    groups, tensors = receipt.get("groups"), receipt.get("tensors")
    if not isinstance(groups, list):
        raise Damaged("groups", "expected a list")
    if not isinstance(tensors, dict):
        raise Damaged("tensors", "expected an object")
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        group = tensor.get("group") if isinstance(tensor, dict) else None
        if type(group) is not int or not 0 <= group < len(groups):
            raise Damaged(f"tensors.{name}.group", f"expected the number of one of {len(groups):,} groups")
        common = groups[group]
        if not isinstance(common, dict) or len(common) > _MOST:
            raise Damaged(f"groups.{group}", f"expected an object of at most {_MOST} keys")
        made[name] = common | {key: value for key, value in tensor.items() if key != "group"}
    return {key: value for key, value in receipt.items() if key != "groups"} | {"format": form, "tensors": made}


def _equal(one: Any, other: Any) -> bool:
    """Whether JSON spells both alike: 0 and -0.0 are equal and are not."""
    return one == other and repr(one) == repr(other)
