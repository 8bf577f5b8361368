"""Small matrices are multiplied by one thread, as `adapt` does it: more of them only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefmerge.target.fit import one_thread


@pytest.fixture
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield
