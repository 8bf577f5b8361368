"""A merged folder as a repository of the Hugging Face hub.

    verify the folder -> choose the files (those that its receipt lists) -> look at the repository -> one commit

What goes is the receipt, the weights and the files beside them that the receipt lists: nothing else that lies in the
folder. huggingface_hub does the work, with its own settings: HF_ENDPOINT, HF_TOKEN or `hf auth login`. The repository
gets all files in one commit, or none. Cost: one reading of the folder to verify it, and the upload. Not here: fetching
(`checkpoints.hub`); branches and pull requests; what lies in the repository already, which stays.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from prefmerge.checkpoints.hub import LOG_IN, WAIT, quietly, status_of, why_not
from prefmerge.checkpoints.layouts import is_weights
from prefmerge.checkpoints.names import is_index
from prefmerge.checkpoints.paths import as_hub_id
from prefmerge.errors import MissingExtra, OutputError, PrefmergeError, UsageError, VerificationFailed
from prefmerge.ground.progress import Progress, phase
from prefmerge.ground.words import listed
from prefmerge.merging.receipt import Receipt
from prefmerge.merging.verify import verify
from prefmerge.outputs.receipts import RECEIPT

SHOWN = 5  # names listed in a message about many
MESSAGE = "Upload a model merged with prefmerge"


@dataclass(frozen=True)
class PushedFile:
    """A file of the folder."""

    name: str  # its path in the folder
    bytes: int  # its size


@dataclass(frozen=True)
class Pushed:
    """What went to the hub, or would go."""

    out: str  # the folder
    repository: str  # `org/name`
    files: tuple[PushedFile, ...]  # in one commit
    address: str | None = None  # of the commit; None where nothing was sent

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "out": self.out,
            "repository": self.repository,
            "files": [{"name": file.name, "bytes": file.bytes} for file in self.files],
            "address": self.address,
        }


def push(
    out: str | Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Upload the merged folder `out` to the Hugging Face hub as `repository` (`org/name`), which is made if need be.

        prefmerge.push("merged", "my-org/my-model", private=True)

    Only an output that is what its receipt says is sent, and only the files that the receipt lists, in one commit.
    private: make the repository private; without it, the hub's default holds. A repository that is public is then
    refused. dry_run: check the folder and say what would go, without the hub.

    Raises UsageError for a name that is no id, VerificationFailed for a folder that is no output of prefmerge or was
    changed, MissingExtra without huggingface_hub, and OutputError where the hub cannot be had or does not let you.
    """
    out = Path(out)
    repository = repository_of(repository)
    _require_folder(out)
    if not dry_run:
        require_ready(repository)
    verify(out, progress=progress)
    files = _files(out)
    if dry_run:
        return Pushed(str(out), repository, files)
    return Pushed(str(out), repository, files, _upload(out, repository, files, private))


def repository_of(text: str) -> str:
    """`org/name`. Raises UsageError for anything else."""
    one = as_hub_id(text)
    if one is None:
        raise UsageError(f"{text} is no repository of the Hugging Face hub. Give ORG/NAME, such as my-org/my-model.")
    if one.revision is not None:
        raise UsageError(f"{text} names a revision, and a model is pushed to the main branch. Give {one.repository}.")
    return one.repository


def require_ready(repository: str) -> None:
    """Raise MissingExtra without huggingface_hub, OutputError without a token."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise MissingExtra(f"pushing to {repository} on the Hugging Face hub", "hub") from None
    if hub.get_token() is None:
        raise OutputError(f"{repository}: pushing needs a token that may write: {LOG_IN}, or set HF_TOKEN.")


def require_welcome(repository: str, private: bool) -> None:
    """Raise what `push` would raise before it sends anything, but for what is in the folder."""
    require_ready(repository)
    _look(repository, private)


def _require_folder(out: Path) -> None:
    if out.is_file():
        raise UsageError(
            f"{out} is one file, and a repository is made of a folder: merge with -o {out.with_suffix('')}."
        )
    if out.is_dir() and not (out / RECEIPT).is_file():
        raise VerificationFailed(
            f"{out} holds no {RECEIPT}, so prefmerge did not make it. Only what prefmerge merged can be pushed."
        )


def _files(out: Path) -> tuple[PushedFile, ...]:
    """The files that go: those that the receipt lists, and itself. Raises VerificationFailed where one is not there."""
    output = Receipt.load(out / RECEIPT).output
    if output.beside is None:
        raise VerificationFailed(
            f"{out}: the receipt does not list the files beside the weights, so it is not known what belongs to the "
            "model. Merge again, and push that."
        )
    names = sorted({RECEIPT, *output.beside, *(file.name for file in output.files)})
    absent = [name for name in names if not _is_inside(out, name)]
    if absent:
        raise VerificationFailed(
            f"{out}: files that the receipt lists are no files of this folder: {listed(absent, SHOWN)}. Merge again, "
            "or bring them back."
        )
    return tuple(PushedFile(name, (out / name).stat().st_size) for name in names)


def _is_inside(out: Path, name: str) -> bool:
    """Whether a file of that name is in the folder itself: a link may lead to anything of the user's."""
    place = out
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        return False
    for part in parts[:-1]:
        place /= part
        if place.is_symlink():
            return False
    try:
        return stat.S_ISREG((place / parts[-1]).lstat().st_mode)
    except OSError:
        return False


def _look(repository: str, private: bool) -> list[str] | None:
    """The files in the repository; None where it is yet to be made. Raises OutputError."""
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = hub.HfApi().model_info(repository, timeout=WAIT)
    except Exception as error:  # what fails, and how it is called, depends on the version and on what it asks with
        if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
            return None
        raise _refusal(repository, error) from error
    if private and not info.private:
        raise OutputError(
            f"{repository} is there and public. Make it private on its page of the hub, push to another one, or leave "
            "--private out."
        )
    return [file.rfilename for file in info.siblings or ()]


def _require_no_others(repository: str, there: Sequence[str], files: Sequence[PushedFile]) -> None:
    """Weights that stay beside the new ones may be loaded in their place."""
    own = {file.name for file in files}
    others = [name for name in there if name not in own and (is_weights(name) or is_index(name))]
    if others:
        raise OutputError(
            f"{repository} holds other weights: {listed(others, SHOWN)}. They might be loaded for the new ones. "
            "Remove them there, or push to another repository."
        )


def _upload(out: Path, repository: str, files: Sequence[PushedFile], private: bool) -> str:
    import huggingface_hub as hub

    there = _look(repository, private)
    _require_no_others(repository, there or (), files)
    api = hub.HfApi()
    size = sum(file.bytes for file in files)
    told = f"pushing to {repository}: {listed([file.name for file in files], 2)}, {size / 1e9:.2f} GB"
    with phase(told), quietly():
        try:
            if there is None:
                api.create_repo(repository, private=private or None)
            adding = [hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=out / file.name) for file in files]
            return str(api.create_commit(repository, operations=adding, commit_message=MESSAGE).commit_url)
        except Exception as error:  # of the hub or the network, as above: `_refusal` says which
            raise _refusal(repository, error, again=f"prefmerge push {quote(str(out))} {repository}") from error


def _refusal(repository: str, error: Exception, again: str | None = None) -> PrefmergeError:
    """What to raise where the hub takes nothing. `again`: the command that pushes what is there already."""
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):  # of one file: the cause says more
        error = error.__cause__
    status = status_of(error)
    if status in (401, 403):
        return OutputError(
            f"{repository}: the Hugging Face hub does not let you write it (status {status}). Use a token that may "
            f"write there: {LOG_IN}, or set HF_TOKEN."
        )
    retry = "" if again is None else f" The folder is as it was. To try again: {again}"
    return OutputError(f"{repository}: nothing was pushed, as {why_not(error)}.{retry}")
