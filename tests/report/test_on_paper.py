"""Reports on paper: light whatever the reader's screen is, opened, and with nothing cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import prefmerge
from prefmerge.lab import figures, report
from prefmerge.lab.figures import Picture
from prefmerge.lab.results import Results
from tests.lab.made import made
from tests.studio.browser import CHROMIUM, Browser

pytest.importorskip("matplotlib", reason="figures need the extra plot")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to print with")

PAPER = 718  # pixels of an A4 page between a browser's margins
LIGHT = "getComputedStyle(document.body).backgroundColor"
HIDDEN = """[...document.querySelectorAll('details > :not(summary, .hint)')].filter(
    (one) => !one.checkVisibility({contentVisibilityAuto: true}) || !one.getBoundingClientRect().height
).map((one) => one.outerHTML.slice(0, 80))"""
CUT = """[...document.querySelectorAll('body *')].filter((one) => {
    const box = one.getBoundingClientRect();
    return one.checkVisibility() && !one.closest('.unseen') && (box.right > innerWidth + 1 || box.left < -1);
}).map((one) => one.outerHTML.slice(0, 80))"""
HEIGHTS = "[...document.querySelectorAll('.scroll, pre')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report of a merge of many tasks, and that of an experiment with a wide figure and wide tables."""
    folder, rng = tmp_path_factory.mktemp("reports"), np.random.default_rng(0)
    names = ["base", *(f"a task with a long name {t + 1}" for t in range(20))]
    for name in names:
        state = {f"layers.{i}.w": rng.standard_normal(60).astype(np.float32) for i in range(3)}
        save_file(state, folder / f"{name}.safetensors")
    base, *tasks = (folder / f"{name}.safetensors" for name in names)
    prefmerge.merge(base, tasks, folder / "out.safetensors", report=folder / "merge.html")

    def one(results: Results) -> list[Picture]:
        found = figures.environments(results, "1")
        return [] if found is None else [found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "all_of", one)
        report.write(made(tasks=20, scales=("1",)), folder / "bench")
    return [folder / "merge.html", folder / "bench" / "report.html"]


def test_paper_is_light_opened_and_whole(pages: list[Path], tmp_path: Path):
    with Browser(dark=True) as browser:
        for page in pages:
            browser.open(page.as_uri())
            assert browser.run(LIGHT) != "rgb(255, 255, 255)"  # on the screen it is dark
            assert browser.run("document.querySelectorAll('details:not([open])').length") > 0
            browser.on_paper(PAPER)
            assert browser.run(LIGHT) == "rgb(255, 255, 255)"
            assert browser.run("getComputedStyle(document.documentElement).colorScheme") == "light"
            assert browser.run(HIDDEN) == []
            assert browser.run(CUT) == []
            assert browser.run(HEIGHTS) == 0
            browser.print(tmp_path / "page.pdf")
            assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
            browser.on_screen(dark=True)
