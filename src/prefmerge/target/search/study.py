"""Trials, kept in a file as they are made, and the next ones to make (optuna's TPE).

What to try next is a function of the seed and of the trials that are done, and of nothing else: the batch is drawn in a
study in memory that is filled from the file, each trial by a sampler seeded with its number. A trial reaches the file
(an optuna journal, which optuna's own tools read) whole and when it is done, in the order of the numbers. So a search
that is killed at any moment resumes to the same result; what is lost is at most a batch. Source: Bergstra et al.
2011 (TPE). Cost: tens of milliseconds a trial. Not here: several processes at once (the caller locks the folder).
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from prefmerge.errors import MissingExtra, OutputError, RunError
from prefmerge.ground.draws import keyed
from prefmerge.ground.refused import remedy
from prefmerge.target.search.space import Dimension, Params

FILE = "study.journal"
NAME = "prefmerge-search"
IDENTITY = "identity"
STARTUP = 8  # trials before TPE has a model; optuna's 10 would leave nothing of a patience of 10


class Study:
    """`path`: where the trials are kept; None: in memory only. `identity`: what decides a trial's result; a file of
    another identity is refused with RunError.
    """

    def __init__(
        self, path: Path | None, identity: Mapping[str, Any], dimensions: Mapping[str, Dimension], seed: int
    ) -> None:
        self._optuna = _imported()
        self._seed, self._path = seed, path
        self._distributions = {name: self._distribution(one) for name, one in dimensions.items()}
        with self._quiet():
            self._study = self._opened(path, json.loads(json.dumps(identity)))

    @property
    def kept(self) -> list[dict[str, Any]]:
        """What `keep` was given, in order."""
        return [dict(trial.user_attrs) for trial in self._study.get_trials(deepcopy=False)]

    def ask(self, after: int, numbers: Sequence[int]) -> list[Params]:
        """The numbers that stand for the trials called `numbers`, to be made side by side when the first `after` trials
        are done. Changes nothing.
        """
        optuna = self._optuna
        with self._quiet():
            done = self._study.get_trials(deepcopy=False)[:after]
            shadow = optuna.create_study(direction="maximize")
            shadow.add_trials([trial for trial in done if trial.params])
            asked: list[Params] = []
            for number in numbers:
                # One sampler per trial: its random stream does not depend on what this process did before. Trials that
                # are asked for but not done count as bad ones, which keeps those of a batch apart.
                shadow.sampler = optuna.samplers.TPESampler(
                    seed=keyed("search", self._seed, str(number)) % 2**32,
                    n_startup_trials=STARTUP,
                    multivariate=True,
                    constant_liar=True,
                )
                asked.append(dict(shadow.ask(dict(self._distributions)).params))
        return asked

    def keep(self, params: Params | None, value: float, kept: Mapping[str, Any]) -> None:
        """Add a trial that is done. `kept`: what `kept` gives back; JSON. Raises OutputError."""
        with self._quiet():
            trial = self._optuna.trial.create_trial(
                value=value,
                params=dict(params or {}),
                distributions=self._distributions if params is not None else {},
                user_attrs=dict(kept),
            )
            with _writing(self._path):
                self._study.add_trial(trial)

    def _distribution(self, over: Dimension) -> Any:
        made = self._optuna.distributions
        if isinstance(over[0], str):
            return made.CategoricalDistribution(over)
        return made.FloatDistribution(*over)

    def _opened(self, path: Path | None, identity: dict[str, Any]) -> Any:
        optuna = self._optuna
        if path is None:
            return optuna.create_study(direction="maximize")
        journal = optuna.storages.journal

        mend(path)
        try:
            storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=_Unlocked()))
            study = optuna.create_study(storage=storage, study_name=NAME, direction="maximize", load_if_exists=True)
            kept = study.user_attrs.get(IDENTITY)
        except OSError as error:
            raise _refused(error, path) from error
        except (ValueError, KeyError, AssertionError) as error:
            raise RunError(f"{path}: is damaged: {error}. Start the search again with --force.") from error
        if kept is None:
            with _writing(path):
                study.set_user_attr(IDENTITY, identity)
        elif kept != identity:
            differing = [name for name in {**kept, **identity} if kept.get(name) != identity.get(name)]
            shown = "; ".join(
                f"{name} was {_short(kept.get(name))}, is {_short(identity.get(name))}" for name in differing
            )
            raise RunError(
                f"{path.parent}: holds another search: {shown}. Give another -o OUT, or --force to start it "
                "again from nothing."
            )
        return study

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Inside, optuna neither logs nor warns."""
        logging = self._optuna.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(before)


class _Unlocked:
    """In place of optuna's lock, which a killed process leaves behind and the next one waits for."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def _writing(path: Path | None) -> Iterator[None]:
    """Inside, an error of the system becomes an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise _refused(error, path) from error


def _refused(error: OSError, path: Path | None) -> OutputError:
    way = remedy(error, "Give another -o OUT.")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}. {way}")


def _imported() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
            import optuna.storages.journal
    except ImportError as error:
        raise MissingExtra("search", "search") from error
    return optuna


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def mend(path: Path) -> None:
    """Cut off what a kill left of a last line."""
    if not path.exists():
        return
    try:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        last = whole[whole.rfind(b"\n", 0, len(whole) - 1) + 1 :] if whole else b""
        if last and not _is_json(last):
            whole = whole[: len(whole) - len(last)]
        if len(whole) < len(data):
            with open(path, "r+b") as file:
                file.truncate(len(whole))
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror or error}. Give another -o OUT.") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
