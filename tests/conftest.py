"""No test may reach for the network, whichever runs first."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="Try N damaged files, in tests/fuzz.")
    parser.addoption("--attacks", type=int, default=0, metavar="N", help="Repeat attacks on running commands N times.")
