"""What a merge did, as one JSON object beside the weights.

Recipe with every default spelled out, inputs with fingerprints, budgets asked and elements owned per task and tensor,
and apart from them, under `run`, what varies from run to run (time, host, threads, versions). Nothing of it is in the
weights file, so equal recipes give equal bytes. Left out: the values themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmerge.errors import CheckpointCorrupt
from prefmerge.ground import jsons

FORMAT = "prefmerge-receipt/1"


@dataclass(frozen=True)
class Receipt:
    """A receipt. `data` is the JSON object; the properties are what one mostly wants of it."""

    data: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in order."""
        return self.data["tasks"]

    @property
    def owned(self) -> list[int] | None:
        """Elements per task over the model; None for methods in which an element has no owner."""
        return self.data["totals"]["owned"]

    @property
    def fingerprint(self) -> str | None:
        """The content fingerprint of the output."""
        return self.data["output"]["fingerprint"]

    def to_bytes(self) -> bytes:
        """The receipt as it is written."""
        # A path that is no valid UTF-8 holds surrogates; written as \\udc.. they are valid JSON and read back the same.
        return jsons.encoded(self.data, ascii=False, nan=True)

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Read a receipt. Raises CheckpointCorrupt naming the file where it is none."""
        try:
            data = jsons.read(Path(path), nan=True)
        except (OSError, jsons.NotJson) as error:
            raise CheckpointCorrupt(f"{path}: not a readable receipt: {error}. Merge again to have one.") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise CheckpointCorrupt(
                f"{path}: not a receipt that this version reads: expected format {FORMAT!r}, found {found!r}."
            )
        return cls(data)
