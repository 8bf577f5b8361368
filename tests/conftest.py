"""No test may reach for the network, whichever runs first; and none pays for what its neighbours do or load."""

from __future__ import annotations

import gc
import os
import sys

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tests side by side share the cores, with the commands that they start: a thread of OpenMP that waits for a core that
# another one has keeps its own busy, which doubles the time. Read when torch is first imported.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

FEW_MODULES = 100


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="Try N damaged files, in tests/fuzz.")
    parser.addoption("--attacks", type=int, default=0, metavar="N", help="Repeat attacks on running commands N times.")


class Frozen:
    """How many modules were loaded when objects were frozen last."""

    modules = 0


def pytest_runtest_setup() -> None:
    """Keep what libraries load out of the way of the garbage collector: a million objects, and they all stay.

    accelerate collects garbage after each task that is trained; that took a third of a second each time.
    """
    if len(sys.modules) > Frozen.modules + FEW_MODULES:
        gc.collect()
        gc.freeze()
        Frozen.modules = len(sys.modules)
