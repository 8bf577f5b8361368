"""Errors of libraries that mean that the system refuses something."""

from __future__ import annotations

import errno

import pytest

from prefmerge.ground.refused import lacks_memory


def raised_in_place_of(first: Exception, second: Exception) -> Exception:
    try:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904  (as llvmlite does)
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        OSError("libllvmlite.so: failed to map segment from shared object"),
        raised_in_place_of(OSError("libllvmlite.so: failed to map segment from shared object"), OSError("Not loaded")),
    ],
    ids=repr,
)
def test_too_little_memory_is_known_by_the_systems_words(error: Exception) -> None:
    assert lacks_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "No such file or directory", "cannot allocate memory"),
        OSError("libllvmlite.so: cannot open shared object file"),
        raised_in_place_of(OSError("libllvmlite.so: cannot open shared object file"), OSError("Not loaded")),
        ValueError("out of memory"),
    ],
    ids=repr,
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not lacks_memory(error)
