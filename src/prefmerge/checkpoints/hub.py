"""A hub id as a folder on this machine: `org/name`, `org/name@revision`.

    list the repository -> choose the files (`hub_files`) -> fetch those that the cache lacks -> the snapshot's folder

huggingface_hub does the work, in its own cache and with its own settings: HF_ENDPOINT, HF_TOKEN or `hf auth login`,
HF_HUB_OFFLINE, HF_HOME; a download that broke off resumes. Where the hub cannot be asked, the cache answers.
Cost: two or three requests, and what is fetched. Not here: what an id looks like (`paths`), other hubs.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefmerge.checkpoints.hub_files import RepositoryFiles, files_of_checkpoint
from prefmerge.checkpoints.layouts import SHOWN
from prefmerge.checkpoints.paths import HubId
from prefmerge.errors import CheckpointNotFound, DiskFull, MissingExtra, PrefmergeError
from prefmerge.ground.progress import phase
from prefmerge.ground.words import listed

Beside = Callable[
    [Sequence[str], RepositoryFiles], Sequence[str]
]  # all names, the checkpoint's files -> others to take

WAIT = 10.0  # seconds for the hub to answer
_SNAPSHOT = re.compile(r"(?:.*/)?models--(?P<org>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/.*)?")
LOG_IN = "log in with `hf auth login`"
_OR_LOCAL = "or give a local folder"


def origin(path: Path) -> str | None:
    """The repository and the commit that a file or folder in the hub's cache is of; None elsewhere."""
    match = _SNAPSHOT.fullmatch(os.path.abspath(path))
    return match and f"{match['org']}/{match['name']} of the Hugging Face hub, commit {match['commit']}"


def fetch(what: HubId, beside: Beside | None = None) -> Path:
    """The folder with the checkpoint, fetched as far as the cache lacks it. `beside`: what to take along.

    Raises CheckpointNotFound, DiskFull and MissingExtra, each with one message.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        wish = f"{what}: no such file or folder here, and fetching it from the Hugging Face hub"
        raise MissingExtra(wish, "hub") from None
    try:
        info = hub.HfApi().model_info(what.repository, revision=what.revision, files_metadata=True, timeout=WAIT)
    except Exception as error:  # what fails, and how it is called, depends on the version and on what it fetches with
        return _cached(what, beside, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = _wanted(list(sizes), str(what), beside)

    def is_cached(name: str) -> bool:
        return isinstance(hub.try_to_load_from_cache(what.repository, name, revision=info.sha), str)

    lacking = [name for name in wanted if not is_cached(name)]
    size = sum(sizes[name] for name in lacking)
    _require_space(what, size)
    with phase(f"fetching {what}: {listed(lacking, 2)}, {size / 1e9:.2f} GB") if lacking else contextlib.nullcontext():
        try:
            folder = _snapshot(what, allow_patterns=[glob.escape(name) for name in wanted])
        except Exception as error:  # of the hub, the network or the disk, as above: `_refusal` says which
            raise _refusal(what, error) from error
    return _complete(what, folder, wanted, "the hub did not give them")


def _wanted(names: Sequence[str], where: str, beside: Beside | None) -> list[str]:
    files = files_of_checkpoint(names, where)
    return sorted({*files.needed, *(() if beside is None else beside(names, files))})


def _snapshot(what: HubId, **how: Any) -> Path:
    import huggingface_hub as hub

    with quietly():
        return Path(hub.snapshot_download(what.repository, revision=what.revision, **how))


def _cached(what: HubId, beside: Beside | None, error: Exception) -> Path:
    """The folder in the cache, where that has all of it. `error`: what kept the hub from answering."""
    import huggingface_hub as hub
    from huggingface_hub.errors import RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        raise _refusal(what, error) from error
    try:
        folder = _snapshot(what, local_files_only=True, allow_patterns=[])
    except Exception:  # the cache has nothing of it: why the hub did not answer is the reason to give
        raise _refusal(what, error) from error
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with contextlib.suppress(Exception):  # older versions keep no list of what the repository has
        names = [file.path for file in hub.get_cached_repo_tree(what.repository, revision=what.revision)]
    return _complete(what, folder, _wanted(names, f"{what}, in the cache", beside), why_not(error))


def _complete(what: HubId, folder: Path, wanted: Sequence[str], why: str) -> Path:
    lacking = [name for name in wanted if not (folder / name).is_file()]
    if lacking:
        raise CheckpointNotFound(
            f"{what}: the cache lacks {listed(lacking, SHOWN)}, and {why}. Fetch it again when the hub can be reached, "
            f"or give the folder as it is: {folder}."
        )
    return folder


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, the library draws no bars and gives no advice, unless the user asked it to."""
    from huggingface_hub import constants, utils

    level = utils.logging.get_verbosity()
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not utils.are_progress_bars_disabled()
    if "HF_HUB_VERBOSITY" not in os.environ:
        utils.logging.set_verbosity_error()
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if bars:
            utils.enable_progress_bars()


def _require_space(what: HubId, size: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next((folder for folder in (cache, *cache.parents) if folder.is_dir()), None)
    if there is None:
        return
    free = shutil.disk_usage(there).free
    if size > free:
        raise DiskFull(
            f"{what}: fetching it takes {size / 1e9:.2f} GB, and {cache} has {free / 1e9:.2f} GB left. Free some "
            "space, or set HF_HOME to a folder on a larger disk."
        )


def _refusal(what: HubId, error: BaseException) -> PrefmergeError:
    """What to raise where an id cannot be had."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    here, status = f"{what}: no such file or folder here", status_of(error)
    if isinstance(error, RevisionNotFoundError):
        return CheckpointNotFound(
            f"{what}: {what.repository} of the Hugging Face hub has no revision {what.revision!r}. Give one of its "
            "branches, tags or commits."
        )
    if isinstance(error, GatedRepoError):
        return CheckpointNotFound(
            f"{what}: its owner decides who may read it. Ask for access on its page of the Hugging Face hub, and "
            f"{LOG_IN}."
        )
    if status == 403 or (status == 401 and not isinstance(error, RepositoryNotFoundError)):
        return CheckpointNotFound(
            f"{what}: the Hugging Face hub does not let you read it (status {status}). Use a token that may read it: "
            f"{LOG_IN}, or set HF_TOKEN."
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointNotFound(
            f"{here}, and no such model on the Hugging Face hub, or a private one. Correct the path or the name; for a "
            f"private one {LOG_IN}."
        )
    if _is_full(error):
        return DiskFull(
            f"{what}: the disk of {constants.HF_HUB_CACHE} is full. Free some space, or set HF_HOME to a folder on a "
            "larger disk. What was fetched is kept, and fetching resumes there."
        )
    next_step = (
        f"Unset HF_HUB_OFFLINE to fetch it, {_OR_LOCAL}"
        if constants.HF_HUB_OFFLINE
        else f"Correct the path, check the network, {_OR_LOCAL}"
    )
    return CheckpointNotFound(
        f"{here}, and the cache of the Hugging Face hub has no copy; {why_not(error)}. {next_step}."
    )


def why_not(error: BaseException) -> str:
    """Why the hub was of no help. Addresses may hold secrets, so none is shown."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub was not asked"
    if status := status_of(error):
        return f"the hub answered with status {status}"
    said = str(error).strip().partition("\n")[0].rstrip(".")
    kind = type(error).__name__
    return f"the hub cannot be reached ({kind if not said or '://' in said else f'{kind}: {said}'})"


def status_of(error: BaseException) -> int | None:
    """The status that the hub answered with; None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
