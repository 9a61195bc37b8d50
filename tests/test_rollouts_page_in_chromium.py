"""The page of a rollout log in a real Chromium: filters, keys and pictures work, and nothing in the log is run.

Skipped, with that as the reason, on a machine without Chromium or Chrome; continuous integration installs one and sets
REQUIRE_CHROMIUM, which makes its absence a failure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.logged_runs import example, logged, run
from tests.scripted_chat import ANSWER, ZOOM, zoom_call
from tests.test_rollouts_page import HOSTILE
from vtagent.training import rollouts
from vtagent.training.rl.log import RolloutLog
from vtagent.training.rl.rollout import Rollout

pytestmark = pytest.mark.skipif(
    browser.find() is None and not os.environ.get("REQUIRE_CHROMIUM"), reason="no Chromium or Chrome is installed"
)

CORNER = zoom_call(region=[500, 0, 1000, 250])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, each with a group of large print (three rollouts) and one of small print (two)."""
    folder = tmp_path_factory.mktemp("log")
    hostile = f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>"
    log = RolloutLog(folder)
    for step in (0, 10):
        log.write(
            step,
            [
                logged(run(example(0), ANSWER), right=True, advantage=1.0, group=0),
                logged(run(example(0), CORNER, ANSWER), right=True, penalty=0.1, advantage=0.5, group=0),
                logged(run(example(0), hostile), right=False, advantage=-1.5, group=0),
                logged(run(example(1), ZOOM, "no tags at all"), right=False, advantage=0.0, group=1),
                logged(Rollout(example(1), error=f"the graph raised {HOSTILE}"), group=1),
            ],
        )
    rollouts.main([str(folder), "--title", HOSTILE])
    return folder / "rollouts.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    path = browser.find()
    assert path is not None, "REQUIRE_CHROMIUM is set and there is no Chromium: apt-get install chromium"
    with browser.launched(path, tmp_path_factory.mktemp("profile")) as process:
        yield browser.Page(process)


def cells(page: browser.Page) -> list[str]:
    """The rollouts that the list shows, as step/group/number."""
    script = "[...document.querySelectorAll('.cell')].filter(c => c.checkVisibility()).map(c => c.dataset.key)"
    found: list[str] = page.run(script)
    return found


def detail(page: browser.Page) -> str:
    """The text of the rollout that is looked at."""
    text: str = page.run("document.getElementById('detail').innerText")
    return text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("", ["0", "1", "2", "3", "4"]),
        ("#zoom=yes", ["1", "3"]),
        ("#zoom=no", ["0", "2"]),
        ("#right=yes", ["0", "1"]),
        ("#right=no", ["2", "3"]),
        ("#right=none", ["4"]),
        ("#form=no", ["3"]),
        ("#min=1.4", ["0", "1"]),
        ("#min=0.5&max=1.4", ["1", "2"]),
        ("#source=small%20print", ["3", "4"]),
        ("#q=region%20500", ["1"]),
        ("#q=OWNED", ["2", "4"]),
        ("#zoom=yes&right=yes", ["1"]),
        ("#right=yes&form=no", []),
    ],
)
def test_filters_show_what_they_say(chromium: browser.Page, log: Path, address: str, shown: list[str]) -> None:
    keys = {"0": "0/0", "1": "0/1", "2": "0/2", "3": "1/0", "4": "1/1"}
    chromium.open(log, address)
    assert cells(chromium) == [f"{step}/{keys[number]}" for step in (0, 10) for number in shown]
    assert chromium.run("document.documentElement.dataset.shown") == str(2 * len(shown))
    assert chromium.run("document.getElementById('nothing').checkVisibility()") is (not shown)
    assert chromium.problems == []


@pytest.mark.parametrize(("steps", "count"), [("10", 5), ("0-10", 10), ("1-9", 0), ("10-", 10)])
def test_steps_are_one_or_a_range(chromium: browser.Page, log: Path, steps: str, count: int) -> None:
    chromium.open(log, f"#step={steps}")
    assert len(cells(chromium)) == count


def test_nothing_that_the_log_says_is_run(chromium: browser.Page, log: Path) -> None:
    chromium.open(log, "#at=0/0/2")
    assert chromium.run("document.title") == HOSTILE
    assert HOSTILE in detail(chromium)
    chromium.open(log, "#at=0/1/1")
    assert f"the graph raised {HOSTILE}" in detail(chromium)
    assert chromium.run("document.querySelectorAll('script').length") == 2
    assert chromium.run("[...document.images].every(i => i.src.startsWith('blob:'))")
    assert chromium.problems == []


def test_what_does_get_in_is_refused_by_the_page_s_policy(chromium: browser.Page, log: Path) -> None:
    chromium.open(log)
    chromium.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.x = 1'}))")
    assert chromium.run("window.x === undefined")
    assert any("Content Security Policy" in problem for problem in chromium.problems)


def test_a_rollout_is_told_whole(chromium: browser.Page, log: Path) -> None:
    chromium.open(log, "#at=10/0/1")
    text = detail(chromium)
    for said in ("accuracy 1.0", "− penalty 0.10", "= reward 1.40", "advantage +0.50", "Too small.", "48.10"):
        assert said in text
    assert 'zoom_image({"region":[500,0,1000,250]})' in text
    assert "3 rollouts of this question" in text
    assert chromium.run("document.querySelectorAll('.siblings tbody tr').length") == 3
    assert chromium.run("document.querySelector('.siblings tr.chosen td').innerText") == "2"


def test_boxes_lie_where_the_policy_zoomed(chromium: browser.Page, log: Path) -> None:
    chromium.open(log, "#at=0/0/1")
    chromium.wait("[...document.images].every(i => i.complete && i.naturalWidth)")
    picture, box = (
        chromium.run(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
        for element in ("document.querySelector('.stage img')", "document.querySelector('.box')")
    )
    wanted = [picture[0] + picture[2] / 2, picture[1], picture[2] / 2, picture[3] / 4]
    assert box == pytest.approx(wanted, abs=1.5)
    assert chromium.run("document.querySelector('.stage img').naturalWidth") == 112
    chromium.press("2")
    chromium.wait("document.querySelector('.stage img').naturalWidth === 112 && !document.querySelector('.box')")
    assert "view=1" in chromium.run("location.hash")


def test_it_is_driven_by_keys(chromium: browser.Page, log: Path) -> None:
    chromium.open(log)

    def after(*keys: str) -> str:
        for key in keys:
            chromium.press(key)
        at: str = chromium.run("new URLSearchParams(location.hash.slice(1)).get('at')")
        return at

    assert after() == "0/0/0"
    assert after("j") == "0/0/1"
    assert after("j", "j", "j", "j") == "10/0/0"
    assert after("k") == "0/1/1"
    assert after("K") == "0/0/0"
    assert after("J") == "0/1/0"
    assert after("z") == "0/1/0"  # zoomed: the chosen one still matches
    assert cells(chromium) == ["0/0/1", "0/1/0", "10/0/1", "10/1/0"]
    assert after("r") == "0/0/1"  # and right: it does not, so the first that does
    assert after("Escape") == "0/0/1"
    assert len(cells(chromium)) == 10
    after("/")
    for letter in "none such":
        chromium.press(letter)
    assert cells(chromium) == []
    after("Escape", "Escape", "?")
    assert chromium.run("document.getElementById('keys').open")
    assert chromium.problems == []


def test_mouse_and_keyboard_reach_the_same_places(chromium: browser.Page, log: Path) -> None:
    chromium.open(log)
    chromium.click('[data-name="right"] [data-value="none"]')
    assert cells(chromium) == ["0/1/1", "10/1/1"]
    chromium.click('.cell[data-key="10/1/1"]')
    assert "at=10%2F1%2F1" in chromium.run("location.hash")
    chromium.click("#clear")
    assert len(cells(chromium)) == 10
    chromium.click(".siblings tbody tr:first-child")
    assert "at=10%2F1%2F0" in chromium.run("location.hash")


def test_light_and_dark_differ_and_stay_in_the_address(chromium: browser.Page, log: Path) -> None:
    chromium.open(log, "#theme=light")
    light = chromium.run("getComputedStyle(document.body).backgroundColor")
    chromium.press("t")
    assert chromium.run("getComputedStyle(document.body).backgroundColor") != light
    assert "theme=dark" in chromium.run("location.hash")


def test_a_screenshot_shows_the_page(chromium: browser.Page, log: Path, tmp_path: Path) -> None:
    from PIL import Image

    chromium.open(log, "#theme=light&at=0/0/1")
    chromium.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1440, 900)
        colours = image.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 200


def test_an_address_with_nonsense_in_it_is_harmless(chromium: browser.Page, log: Path) -> None:
    nonsense = {"at": "9/9/9", "zoom": "<b>", "min": "x", "step": "a-b", "view": "77", "theme": '"><script>'}
    chromium.open(log, "#" + "&".join(f"{name}={value}" for name, value in nonsense.items()))
    assert json.loads(chromium.run("JSON.stringify(document.querySelectorAll('script').length)")) == 2
    assert chromium.problems == []
