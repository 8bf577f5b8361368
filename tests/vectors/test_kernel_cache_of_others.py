"""The cache of kernels where other users may write: nothing of theirs is run."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numba
import pytest

from prefmerge.vectors import kernel_cache
from tests.vectors.test_kernel_cache import NOBODY, compiles, fresh, only_file


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def readable_by_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


def a_link(folder: Path) -> None:
    target = folder.with_name("elsewhere")
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def a_file(folder: Path) -> None:
    folder.write_text("")


def of_another(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)


def in_a_folder_where_all_may_rename(folder: Path) -> None:
    folder.parent.chmod(0o777)


def in_a_folder_of_another(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    os.chown(folder.parent, NOBODY, NOBODY)


@pytest.mark.parametrize(
    "prepare",
    [
        open_to_all,
        readable_by_all,
        a_link,
        a_file,
        of_another,
        in_a_folder_where_all_may_rename,
        in_a_folder_of_another,
    ],
)
def test_a_temporary_folder_that_others_may_have_touched_is_not_used(
    source: Path, nowhere: Path, caplog: pytest.LogCaptureFixture, prepare: Callable[[Path], None]
):
    prepare(nowhere / f"prefmerge-{os.geteuid()}")
    assert [compiles(source), compiles(source)] == [True, True]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "note: compiled kernels are kept nowhere, so that every run compiles them, a few seconds; these folders"
    )
    assert list(nowhere.parent.rglob("*.nbc")) == []


def give_away(*paths: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    for path in paths:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def chosen_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NUMBA_CACHE_DIR, open to all, with a kernel in it; returns that kernel's file."""
    chosen = source.parent.parent / "shared"
    chosen.mkdir()
    chosen.chmod(0o777)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(chosen))
    assert [compiles(source), compiles(source)] == [True, False]
    (file,) = chosen.rglob("sums.add-*.nbc")
    return file


def test_a_file_of_another_user_is_not_taken_but_replaced(source: Path, monkeypatch: pytest.MonkeyPatch):
    """It may bear a right seal: what a seal is made of is known to all."""
    file = chosen_folder(source, monkeypatch)
    give_away(file)
    assert compiles(source)
    assert file.stat().st_uid == os.geteuid()
    assert not compiles(source)


def test_a_link_to_a_file_of_ones_own_is_not_taken(source: Path, monkeypatch: pytest.MonkeyPatch):
    """Who may write to the folder could link to what its user has downloaded."""
    file = chosen_folder(source, monkeypatch)
    file.rename(source.parent / "downloaded")
    file.symlink_to(source.parent / "downloaded")
    assert compiles(source)
    assert not file.is_symlink()
    assert not compiles(source)


def test_a_folder_of_another_user_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch):
    file = chosen_folder(source, monkeypatch)
    give_away(file.parent)
    assert [compiles(source), compiles(source)] == [True, False]
    assert only_file(source).exists()  # the next place


def test_a_link_in_place_of_a_folder_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch):
    file = chosen_folder(source, monkeypatch)
    file.parent.rename(source.parent / "downloaded")
    file.parent.symlink_to(source.parent / "downloaded")
    assert [compiles(source), compiles(source)] == [True, False]
    assert only_file(source).exists()


@pytest.mark.parametrize("swap", ["given away", "a link"])
def test_a_folder_swapped_after_it_was_chosen_is_not_read(source: Path, monkeypatch: pytest.MonkeyPatch, swap: str):
    file = chosen_folder(source, monkeypatch)
    module = fresh(source)
    assert kernel_cache.kept(module.add) is True  # the folder is chosen here
    if swap == "given away":
        give_away(file.parent)
    else:
        file.parent.rename(source.parent / "downloaded")
        file.parent.symlink_to(source.parent / "downloaded")
    assert module.add(2, 3) == 5
    assert not module.add.stats.cache_hits


def test_code_that_the_owner_of_the_sources_left_is_taken(source: Path):
    """Who owns the sources decides what runs in any case."""
    assert compiles(source)
    give_away(source.parent, only_file(source).parent, only_file(source))
    assert not compiles(source)


def test_a_pipe_in_place_of_a_file_does_not_hang(source: Path):
    assert compiles(source)
    file = only_file(source)
    file.unlink()
    os.mkfifo(file)
    assert [compiles(source), compiles(source)] == [True, False]


def test_no_file_can_be_written_by_others_whatever_the_umask(source: Path):
    before = os.umask(0)
    try:
        assert compiles(source)
    finally:
        os.umask(before)
    assert stat.S_IMODE(only_file(source).stat().st_mode) == 0o644


def test_a_folder_for_all_where_each_keeps_their_own_is_good_enough(source: Path, nowhere: Path):
    nowhere.chmod(0o1777)  # as /tmp is
    assert [compiles(source), compiles(source)] == [True, False]
