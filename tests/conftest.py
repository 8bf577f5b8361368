"""No test may reach for the network, whichever runs first; and none pays for what its neighbours do or load."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tests side by side share the cores, with the commands that they start: a thread of OpenMP that waits for a core that
# another one has keeps its own busy, which doubles the time. Read when torch is first imported.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

gc.disable()  # until the tests are collected: it would go over all that they import again and again
BACKWARDS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2 == 1
FEW_MODULES = 100
# Files that take longest. They begin first where files run side by side (`--no-loadscope-reorder` keeps their order):
# one of them at the end would be waited for by all other workers. By default pytest-xdist begins with those of most
# tests, which leaves these to the end.
LONGEST = (
    "lab/demo/test_run.py",
    "lab/test_bench.py",
    "benchmarks/test_targets.py",
    "cli/test_adapt_command.py",
    "target/by_command/test_search.py",
    "vectors/test_kernel_cache.py",
    "target/search/test_by_score.py",
    "merging/test_changing_inputs.py",
    "lab/test_on_ray.py",
    "lab/test_at_target.py",
    "cli/test_documents_run.py",
    "benchmarks/test_adapt.py",
    "field/test_many_tensors.py",
    "field/test_attacks_ending.py",
    "lab/demo/test_demo_benchmarks.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="Try N damaged files, in tests/fuzz.")
    parser.addoption("--attacks", type=int, default=0, metavar="N", help="Repeat attacks on running commands N times.")


def pytest_configure() -> None:
    """A shell that starts tests in the background has them ignore Ctrl-C, and with them every command that they start,
    of which some are tested to end by it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    place = {here / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path, len(LONGEST)), item.path.parts))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Every second worker begins with the last file: what two of them compile, each of them does not."""
    report = yield
    if BACKWARDS and isinstance(collector, pytest.Directory) and report.result:
        report.result.reverse()
    return report


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
