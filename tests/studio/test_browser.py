"""The page in a real browser: dials, bars, labels, the front, a model; by keyboard alone; small and dark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the studio is an application of Starlette's (extra studio)")

from prefmerge.studio.opened import open_path
from prefmerge.studio.serving import serving
from tests.studio.browser import CHROMIUM, Browser
from tests.studio.conftest import TOKEN, Client
from tests.studio.test_server import by_command, contents

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with")

SETTLED = "document.querySelectorAll('.group li').length === 28 && !document.body.classList.contains('changed')"
STOPPED = "document.getElementById('sweep').textContent !== 'Stop'"
DIALS = "JSON.parse(decodeURIComponent(location.hash.slice(1))).dials"
BOXES = "[...document.querySelectorAll('.dial .box input')].map((one) => Number(one.value))"
OURS = "[...document.querySelectorAll('.group .ours .value')].map((one) => one.textContent)"
CHANGE = "document.body.classList.contains('changed')"


def address(client: Client) -> str:
    return f"http://127.0.0.1:{client.port}/?token={TOKEN}"


def settle(browser: Browser) -> None:
    browser.wait(SETTLED, 120)


def shown(browser: Browser) -> list[float]:
    """The accuracies on each task that the page shows, as parts of 1."""
    return [float(text.removesuffix(" %")) / 100 for text in browser.run(OURS)[2:]]


def measured(client: Client, *dials: float) -> Any:
    """What the server measures; the page rounds it."""
    rows = client.job("/api/measure", client.dials(*dials))[0]["tasks"]
    return pytest.approx([one["accuracy"] for one in rows], abs=0.00051)


@pytest.fixture
def page(of_run: Client) -> Iterator[Browser]:
    with Browser() as browser:
        browser.open(address(of_run))
        settle(browser)
        yield browser
        assert browser.complaints == []


def test_from_a_dial_to_a_written_model(page: Browser, of_run: Client, tmp_path: Path):
    assert page.run(DIALS) == [2000] * 5
    bars = page.run(OURS)
    page.run("document.getElementById('range-0').focus()")
    for key in ("End", "ArrowLeft", "ArrowLeft"):
        page.press(key)
    assert page.run(DIALS) == [9800, 50, 50, 50, 50]
    assert page.run(BOXES) == [98, 0.5, 0.5, 0.5, 0.5]
    assert page.run("document.getElementById('range-0').getAttribute('aria-valuetext')") == "98 %"
    settle(page)
    assert page.run(OURS) != bars
    assert shown(page) == measured(of_run, 0.98, *[0.005] * 4)

    seen = tmp_path / "seen.csv"
    seen.write_text("label\n" + "0\n" * 12 + "8\n" * 4)
    drop = """(async () => {
      const data = new DataTransfer();
      data.items.add(new File([%s], "seen.csv"));
      document.getElementById("labels-drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    })()"""
    page.run(drop % json.dumps(seen.read_text()))
    page.wait(f"{DIALS}.join() === '7500,0,0,0,2500'")
    settle(page)
    assert "16 labels" in page.run("document.getElementById('shown').innerText")
    assert page.run("document.querySelectorAll('.spread:not([hidden]) i').length") == 5
    assert "from 16 labels" in page.run("document.querySelector('.group h3').innerText")

    page.click("#sweep")
    early = "document.querySelector('[aria-label*=\"scale 0.75; task-1-digits-01 51.61 %\"]')"
    page.wait(early, 240)
    page.click("#sweep")
    page.wait(STOPPED)
    page.run(f"{early}.id = 'chosen'")
    page.run("document.getElementById('chosen').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert page.run(DIALS) == [5161, 2581, 1290, 645, 323]
    assert page.run("document.getElementById('control-scale').value") == "0.75"
    settle(page)
    # The target is still what the labels say.
    assert "from 16 labels" in page.run("document.querySelector('.group h3').innerText")

    page.run("document.getElementById('name').focus()")
    page.type("from-the-page")
    page.press("Enter")
    page.wait("/^Written/.test(document.getElementById('written').textContent)", 120)
    page.wait("/from-the-page/.test(document.getElementById('command').textContent)")
    out = of_run.opened.out_dir
    command = page.run("document.getElementById('command').textContent")
    by_command(command.replace(str(out / "from-the-page"), "by-command"), out)
    (out / "by-page.yaml").write_text(page.run("document.getElementById('recipe').textContent"))
    by_command("prefmerge merge by-page.yaml -o by-recipe", out)
    made = contents(out / "from-the-page")
    assert "receipt.json" in made
    for name in ("model.safetensors", "config.json"):
        assert made[name] == contents(out / "by-command")[name] == contents(out / "by-recipe")[name]


def test_a_locked_dial_stays_and_what_was_done_is_undone(page: Browser):
    page.click("#lock-1")
    assert page.run("document.getElementById('range-1').disabled") is True
    page.run("document.getElementById('range-4').focus()")
    page.press("End")
    assert page.run(DIALS) == [0, 2000, 0, 0, 8000]
    page.press("Home")
    assert page.run(DIALS) == [2667, 2000, 2667, 2666, 0]
    page.click("#undo")
    assert page.run(DIALS) == [2000] * 5
    page.click("#early")
    assert page.run(DIALS) == [5161, 2581, 1290, 645, 323]
    page.click("#late")
    assert page.run(DIALS) == [323, 645, 1290, 2581, 5161]
    settle(page)


def test_a_reload_in_the_middle_loses_nothing(page: Browser):
    page.run("document.getElementById('range-2').focus()")
    page.press("End")
    page.run("document.getElementById('method').value = 'ties'")
    page.run("document.getElementById('method').dispatchEvent(new Event('change'))")
    page.run("document.getElementById('control-density').focus()")
    page.type("0.35")
    page.run("document.getElementById('name').focus()")
    page.type("half-typed")
    page.click("#lock-0")
    before = page.run("location.hash")
    page.reload()
    settle(page)
    assert page.run("location.hash") == before
    assert page.run(DIALS) == [0, 0, 10_000, 0, 0]
    assert page.run("document.getElementById('control-density').value") == "0.35"
    assert page.run("document.getElementById('name').value") == "half-typed"
    assert page.run("document.getElementById('lock-0').getAttribute('aria-pressed')") == "true"
    assert page.run("document.getElementById('idle').hidden") is False  # ties has no use for a preference


def test_what_is_wrong_is_said_beside_its_control(page: Browser):
    def told(field: str) -> str:
        page.wait(f"document.querySelector('[data-error=\"{field}\"]').getAttribute('role') === 'alert'")
        assert page.run(f"document.querySelector('[data-error=\"{field}\"]').hidden") is False
        return page.run(f"document.querySelector('[data-error=\"{field}\"]').textContent")

    before = page.run(DIALS)
    page.run("document.getElementById('control-dial-0').focus(); document.getElementById('control-dial-0').select()")
    page.type("NaN")
    page.press("Enter")
    assert told("dial-0") == '"NaN" is no number from 0 to 100.'
    assert page.run("document.getElementById('control-dial-0').getAttribute('aria-invalid')") == "true"
    assert page.run(DIALS) == before
    page.run("document.getElementById('control-scale').focus()")
    page.type("much")
    assert told("scale") == "scale: expected a finite number, found 'much'."
    page.run("document.getElementById('labels-text').focus()")
    page.type("<img src=x onerror=alert(1)>\nseven")
    page.click("#labels-set")
    assert "'<img src=x onerror=alert(1)>'" in told("labels")
    assert page.run("document.querySelectorAll('img').length") == 0
    page.run("document.getElementById('name').focus()")
    page.type("../outside")
    page.press("Enter")
    assert told("name") == "scale: expected a finite number, found 'much'."
    page.run("document.getElementById('control-scale').select()")
    page.type("1")
    settle(page)
    page.run("document.getElementById('name').focus()")
    page.press("Enter")
    assert "is no plain name" in told("name")
    page.run(
        "(() => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(70 << 20)], 'huge.png'));"
        " document.getElementById('inputs-drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data})); })()"
    )
    assert told("inputs") == "70.0 MiB is more than the studio takes at once, 64 MiB. Give fewer."
    # What a server refuses is an error of the console too; nothing else may be there.
    assert all("422" in one or "413" in one for one in page.complaints)
    page.complaints.clear()


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Browser, of_run: Client):
    page.click("#sweep")
    page.wait("document.querySelectorAll('.dot').length > 8", 240)
    page.click("#sweep")
    page.wait(STOPPED)
    reached = page.names()
    assert [one for one in reached if not one[1].strip()] == []
    roles = {role for role, _ in reached}
    assert {"slider", "textbox", "button", "combobox", "DisclosureTriangle"} <= roles
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen: list[str] = []
    for _ in range(90):
        page.press("Tab")
        seen.append(page.run("document.activeElement.id || document.activeElement.className || ''"))
    for wanted in ("range-0", "lock-4", "uniform", "labels-text", "method", "control-scale", "sweep", "axis-x", "name"):
        assert wanted in seen or any(wanted in one for one in seen)
    assert sum("dot" in one for one in seen) <= 2  # the points of the front are one stop
    page.run("document.querySelector('.dot[tabindex=\"0\"]').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    label = page.run("document.activeElement.getAttribute('aria-label')")
    assert page.run("document.getElementById('point').textContent") == label
    page.press("Enter")
    settle(page)
    shares = re.findall(r"task-\d-digits-\d\d ([\d.]+) %", label)
    assert [round(100 * float(share)) for share in shares] == page.run(DIALS)


def test_two_pages_do_not_mix(page: Browser, of_run: Client):
    with Browser() as other:
        other.open(address(of_run))
        settle(other)
        page.run("document.getElementById('range-0').focus()")
        page.press("End")
        other.run("document.getElementById('range-4').focus()")
        other.press("End")
        settle(page)
        settle(other)
        assert page.run(DIALS) == [10_000, 0, 0, 0, 0]
        assert other.run(DIALS) == [0, 0, 0, 0, 10_000]
        assert page.run("document.getElementById('command').textContent") != other.run(
            "document.getElementById('command').textContent"
        )
        assert shown(page) == measured(of_run, 1, 0, 0, 0, 0)
        assert shown(other) == measured(of_run, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (390, False), (1280, True), (320, False)])
def test_the_page_fits_and_can_be_read(of_run: Client, width: int, dark: bool):
    with Browser(width, dark=dark) as browser:
        browser.open(address(of_run))
        settle(browser)
        browser.run("document.getElementById('layers-part').open = true")
        browser.wait("document.querySelectorAll('#layers tr').length > 2")
        assert browser.run("document.documentElement.scrollWidth") <= width
        contrast = browser.run(CONTRAST)
        assert {name: round(value, 2) for name, value in contrast.items() if value < 4.5} == {}


CONTRAST = """(() => {
  const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return c; } return getComputedStyle(document.documentElement).backgroundColor; };
  const seen = {};
  const texts = 'p, b, span, label, button, select, input, h1, h2, h3, li, td, th, pre, code';
  for (const e of document.querySelectorAll(texts)) {
    if (!e.offsetParent || e.disabled || !e.textContent.trim() && !e.value) continue;
    const a = light(getComputedStyle(e).color), b = light(behind(e));
    const key = `${e.tagName} ${e.className}`;
    seen[key] = Math.min(seen[key] ?? 99, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return seen;
})()"""


def test_a_recipe_shows_owners_and_magnitude(of_recipe: Client):
    with Browser() as browser:
        browser.open(address(of_recipe))
        browser.wait("document.querySelectorAll('#layers tr').length === 4")
        assert browser.run("document.getElementById('accuracy-part').hidden") is True
        assert browser.run("document.getElementById('front-part').hidden") is True
        assert "A recipe has no samples" in browser.run("document.getElementById('what').textContent")
        before = browser.run("document.getElementById('layers').innerText")
        browser.run("document.getElementById('range-0').focus()")
        browser.press("End")
        browser.wait(f"!{CHANGE} && document.getElementById('layers').innerText !== {json.dumps(before)}")
        assert browser.run("document.getElementById('control-scale').placeholder") == "0.7"
        assert browser.complaints == []


def test_a_studio_that_stopped_is_told(recipe: Path, tmp_path: Path):
    opened = open_path(recipe, tmp_path)
    with Browser() as browser:
        with serving(opened, TOKEN) as port:
            browser.open(address(Client(opened, port)))
            browser.wait("document.querySelectorAll('#layers tr').length === 4")
            browser.run("document.getElementById('range-0').focus()")
            browser.press("End")
            browser.wait(f"!{CHANGE}")
        browser.press("Home")
        browser.wait("!document.getElementById('banner').hidden", 20)
        told = browser.run("document.getElementById('banner').textContent")
        assert "The studio has stopped" in told
        assert str(recipe) in told
        assert browser.run("location.hash") in told
