"""What came of `adapt --check`, as one value: whether the mix has moved, what that means, and what to do.

Cost: none. Not here: finding it (`check`), printing it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from prefmerge.ground.brief import brief
from prefmerge.ground.words import flag, listed
from prefmerge.target.estimates import Estimate
from prefmerge.target.moved import Moved
from prefmerge.target.parameters import Parameters
from prefmerge.target.parameters.again import Earlier
from prefmerge.target.parameters.scored import COMMANDS
from prefmerge.target.shares import Shares

_MOST = 3  # tasks that a sentence lists


@dataclass(frozen=True, eq=False)
class Checked:
    """What later samples say of the mix that a model was adapted to."""

    __repr__ = brief

    earlier: Earlier  # what `adapt` had found, with its file
    asked: Parameters  # what was asked for, with what `adapt` was given
    moved: Moved  # the shares then and now, and whether they differ
    shares: Shares  # those of the later samples
    expected: Estimate | None  # the model's accuracy in the new mix; None where that was not measured
    there: Estimate | None  # the same of the checkpoint that it was compared with
    on_pairs: Estimate | None  # the model's accuracy on the later pairs; None without any
    notes: tuple[str, ...]  # a sentence each

    @property
    def clear(self) -> bool:
        """Whether the mix has moved, by samples that show which tasks they come from."""
        return self.moved.clear and self.shares.tells

    @property
    def strange(self) -> bool:
        """Whether some inputs are clearly of no task."""
        return self.shares.foreign is not None and self.shares.foreign.low > 0

    @property
    def verdict(self) -> str:
        """Whether the mix has moved, in a sentence or two."""
        one = self.moved
        low, value, high = (100 * end for end in (one.variation.low, one.variation.value, one.variation.high))
        differs = f"{value:.0f} % of the target ({100 * one.level:g} % interval [{low:.0f}, {high:.0f}])"
        noise = f"two estimates of one mix differ by up to {100 * one.noise:.0f} %"
        if not self.shares.tells:
            return "These samples do not show which tasks they come from, so whether the mix has moved is not known."
        if not self.clear:
            return f"No clear change: the mixes differ by {differs}, and {noise} here."
        told = f"The mix has moved, by {differs}; {noise} here."
        for what, names in (("more", one.grew), ("less", one.shrank)):
            if names:
                told += f" There is clearly {what} of {listed(names, _MOST)}."
        if not one.grew and not one.shrank:
            told += " Which tasks grew or shrank is not clear."
        return told

    @property
    def advice(self) -> str:
        """What to do, in a sentence; `command` does it."""
        if not self.shares.tells:
            return "Give labels of the target, or more samples, and check again."
        if self.clear:
            return "Adapt again, to what is seen now (--forget: the earlier samples are of another mix):"
        if self.strange:
            return (
                "Inputs are there that no task knows, and no merge helps with them: look at these inputs, and train a "
                "task for them if they stay."
            )
        if self.command is not None:
            return "Nothing needs to be done. To add these labels to the earlier ones:"
        return "Nothing needs to be done. More samples would show smaller changes."

    @property
    def command(self) -> str | None:
        """The line of `adapt` to type; None where nothing needs to be done and nothing can be added."""
        earlier, asked = self.earlier, self.asked
        only_labels = asked.labels is not None and asked.inputs is None and earlier.labels
        if not self.shares.tells or (self.strange and not self.clear):
            return None
        if not self.clear and not (only_labels and not earlier.inputs and not earlier.pairs):
            return None
        words = ["prefmerge", "adapt", *map(str, asked.checkpoints), "--from", str(earlier.file.parent)]
        words += ["--forget"] if self.clear else []
        for name in ("run", "task_samples", "task_labels", "head", "labels", "inputs", "pairs"):
            value = getattr(asked, name)
            for one in value if isinstance(value, tuple) else (value,):
                words += [] if one is None else [flag(name), str(one)]
        for name in earlier.parameters.get("candidate", ()):
            words += ["--candidate", name]
        for name in COMMANDS:
            words += [flag(name), earlier.parameters[name]] if earlier.parameters.get(name) else []
        return shlex.join([*words, "-o", f"{earlier.file.parent}-again"])

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""

        def told(one: Estimate | None) -> dict[str, float] | None:
            return None if one is None else one.to_json()

        return {
            **self.moved.to_json(),
            "moved": self.clear,
            "target": self.shares.to_json(),
            "expected_accuracy": told(self.expected),
            "expected_accuracy_of_checkpoint": told(self.there),
            "accuracy_on_pairs": told(self.on_pairs),
            "verdict": self.verdict,
            "notes": list(self.notes),
            "advice": self.advice,
            "command": self.command,
        }
