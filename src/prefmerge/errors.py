"""Every error that prefmerge raises on purpose.

PrefmergeError                    exit 1: the job cannot be done; what, where, received, expected, next step
├── CheckpointError               an input cannot be read
│   ├── CheckpointNotFound        nothing there, or nothing that looks like a checkpoint
│   ├── CheckpointCorrupt         truncated, a header that lies, an index that leaves its folder
│   ├── CheckpointChanged         written to, cut short or replaced while it was read
│   ├── UnsafePickle              a pickle that would run code
│   ├── UnsupportedDtype          a number format that prefmerge does not merge
│   └── NonFiniteValue            NaN or infinity in an input
├── CheckpointMismatch            inputs that do not belong together
├── PreferenceError               shares, counts or budgets that make no sense for these tasks
├── MethodError                   a parameter that the method cannot honour
├── RecipeError                   a recipe with an unknown or unsupported key
├── ConfigError                   a configuration of fine-tuning with an unknown key or a value that makes no sense
├── DataError                     a data set that cannot be found, read or mapped to its classes
├── EncoderError                  a model that cannot be loaded, or lacks what is asked of it
├── RunError                      a run folder that is absent, unreadable, unfinished or another run's
├── OutputError                   the output cannot be written
│   ├── OutputExists              something is there and --force was not given
│   ├── OutputBusy                another merge is writing the same output
│   ├── OutputIsInput             the output would overwrite an input
│   ├── DiskFull                  not enough space for output and scratch
│   └── DtypeOverflow             a merged value does not fit the dtype asked for
├── VerificationFailed            an output that is not what its receipt says
├── MissingExtra                  an optional dependency is absent
└── UsageError                    exit 2: wrong usage of the command line
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from prefmerge import shown


class PrefmergeError(Exception):
    """Base of the tree. `exit_code` is what the command line exits with. As text it is one message that is safe to
    show, of at most `shown.LONGEST` characters.
    """

    exit_code = 1

    def __str__(self) -> str:
        return shown.message(super().__str__())


class CheckpointError(PrefmergeError):
    """An input cannot be read."""


class CheckpointNotFound(CheckpointError):
    """There is nothing at the path, or nothing that looks like a checkpoint."""


class CheckpointCorrupt(CheckpointError):
    """The file is truncated, its header lies, or an index leaves its folder."""


class CheckpointChanged(CheckpointError):
    """A file was written to, cut short or replaced while it was read."""


class UnsafePickle(CheckpointError):
    """The pickle asks for more than tensors and would run code."""


class UnsupportedDtype(CheckpointError):
    """A number format that prefmerge does not merge."""


class NonFiniteValue(CheckpointError):
    """NaN or infinity in an input."""


class CheckpointMismatch(PrefmergeError):
    """Inputs that do not belong together: names, shapes, dtypes or base differ."""


class PreferenceError(PrefmergeError):
    """Shares, counts or budgets that make no sense for these tasks."""


class MethodError(PrefmergeError):
    """A parameter that the method cannot honour."""


class RecipeError(PrefmergeError):
    """A recipe with an unknown or unsupported key, or a value of the wrong kind."""


class ConfigError(PrefmergeError):
    """A configuration of fine-tuning with an unknown key, or a value that makes no sense."""


class DataError(PrefmergeError):
    """A data set that cannot be found or read, or whose columns, splits or classes are not what was said."""


class EncoderError(PrefmergeError):
    """A model that cannot be loaded as an encoder, or that lacks what is asked of it."""


class RunError(PrefmergeError):
    """A run folder that is absent, unreadable, unfinished, or another run's."""


class OutputError(PrefmergeError):
    """The output cannot be written."""


class OutputExists(OutputError):
    """Something is at the target and `--force` was not given."""


class OutputBusy(OutputError):
    """Another merge is writing the same output at this moment, in this process or in another."""


class OutputIsInput(OutputError):
    """The output would overwrite one of its own inputs."""


class DiskFull(OutputError):
    """There is not enough space for the output and the scratch file."""


class DtypeOverflow(OutputError):
    """A merged value does not fit the dtype asked for."""


class VerificationFailed(PrefmergeError):
    """An output that is not what its receipt says."""


class MissingExtra(PrefmergeError):
    """An optional dependency is absent; the message is the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency. Install it with: pip install 'prefmerge[{extra}]'")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return MissingExtra, (self.what, self.extra)  # it may come from another process


def require(what: str, extra: str, *modules: str) -> None:
    """Raise MissingExtra, with the command that installs `extra`, where one of the modules cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingExtra(what, extra) from error


class UsageError(PrefmergeError):
    """Wrong usage of the command line or of a Python call."""

    exit_code = 2


def require_one_source(run: object, checkpoints: Sequence[object]) -> None:
    """Raise UsageError where both a run and checkpoints are given."""
    if run is not None and checkpoints:
        raise UsageError(f"--run {run} already says which checkpoints to take. Leave {checkpoints[0]} out.")
