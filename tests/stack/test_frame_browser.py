"""The report's frame browser and charts in Chromium, from a file and offline.

They need a browser, which no other part of the tests starts; the page is made of drawn frames, without a training.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from nerveseg.report import browser as frame_browser
from nerveseg.report import charts, page
from nerveseg.report.browser import Field, Scored, filter_link, frame_link

COUNT = 60
FIELDS = [Field("subject", "Subject"), Field("outcome", "Outcome"), Field("dice", "Dice", 3), Field("area", "Area", 0)]
SIZES = {"desktop": (1440, 900), "tablet": (820, 1180), "phone": (390, 844)}


def scored(number: int) -> Scored:
    """A frame of a subject 0 to 4; the lower its number, the lower its Dice, and 0 and 1 are false negatives."""
    pixels = np.random.default_rng(number).integers(0, 99, (42, 58), np.uint8)
    truth, predicted = np.zeros_like(pixels), np.zeros_like(pixels)
    cv2.circle(truth, (20, 20), 8, 1, -1)
    if number > 1:
        cv2.circle(predicted, (24, 20), 8, 1, -1)
    facts = {
        "subject": str(number % 5),
        "outcome": "true positive" if number > 1 else "false negative",
        "dice": number / COUNT,
        "area": None if number == 3 else float(number),
    }
    return Scored(f"{number}.png", pixels, truth, {"prediction": predicted, "champion": truth}, facts)


def write(path: Path, limit: int = frame_browser.INLINE) -> None:
    frames = [scored(number) for number in range(COUNT)]
    table = pd.DataFrame([{"image": frame.name} | dict(frame.facts) for frame in frames])
    blocks = [
        page.Table(
            ("subject", "frame"), [(page.Link("2", filter_link(subject="2")), page.Link("7", frame_link("7.png")))]
        ),
        page.Charts(
            [charts.by_subject(table, "0", "Dice by subject"), charts.histogram(table["dice"], "dice", "All", "Dice")]
        ),
    ]
    sections = [
        page.Section("Frames", "All.", [frame_browser.build(frames, FIELDS, limit)]),
        page.Section("More", "", blocks),
    ]
    page.render("A report", "Of drawn frames.", sections).write(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write(path)
    return path


@pytest.fixture(params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Browser, path: Path) -> Iterator[Page]:
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 1000, offline=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(path.as_uri())
    yield opened
    context.close()
    assert errors == []


def names(opened: Page) -> list[str]:
    return opened.locator(".grid b").all_text_contents()


def assert_drawn(opened: Page) -> None:
    """The open frame has a picture."""
    decoded = "image => Object.assign(new Image(), { src: image.getAttribute('href') }).decode()"
    opened.locator(".stage image").evaluate(decoded)  # fails where there is none


def serious(opened: Page) -> list[str]:
    found = Axe().run(opened).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def test_frames_are_found_looked_at_and_left_by_keys(opened: Page) -> None:
    assert names(opened)[:2] == ["0.png", "1.png"], "the lowest Dice first"
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
    if not opened.get_by_label("Sort by").is_visible():
        opened.get_by_text("Sort and filter").click()
    opened.get_by_label("Outcome", exact=True).select_option("false negative")
    expect(opened.locator(".count")).to_have_text(f"2 of {COUNT} frames")
    opened.get_by_text("Ranges of scores").click()
    assert serious(opened) == []
    opened.get_by_role("button", name="Show all frames").click()
    opened.get_by_label("Order").select_option("descending")
    opened.get_by_label("Area, to").fill("50")
    assert names(opened)[:2] == ["50.png", "49.png"], "3.png has no area"

    opened.locator(".grid button").first.focus()
    opened.keyboard.press("Enter")
    viewer = opened.get_by_role("dialog", name="50.png")
    expect(viewer.get_by_text("0.833")).to_be_visible()
    shown = viewer.get_by_role("img")
    expect(shown.locator("path.truth")).to_be_visible()
    opened.keyboard.press("t")
    expect(shown.locator("path.truth")).to_be_hidden()
    expect(shown.locator("path.p0")).to_be_visible()
    expect(viewer.get_by_role("button", name="Truth")).to_have_attribute("aria-pressed", "false")
    before = shown.get_attribute("viewBox")
    opened.keyboard.press("+")
    assert shown.get_attribute("viewBox") != before
    assert serious(opened) == []
    opened.keyboard.press("ArrowRight")
    expect(opened.get_by_role("dialog", name="49.png")).to_be_visible()
    assert_drawn(opened)
    opened.keyboard.press("Escape")
    expect(opened.locator(".grid button").nth(1)).to_be_focused()


def test_links_and_dots_of_charts_open_their_frames(opened: Page) -> None:
    opened.get_by_role("link", name="2", exact=True).click()
    expect(opened.locator(".count")).to_have_text(f"{COUNT // 5} of {COUNT} frames")
    opened.get_by_role("link", name="7", exact=True).click()
    expect(opened.get_by_role("dialog", name="7.png")).to_be_visible()
    opened.get_by_role("button", name="Close").click()
    chart = opened.locator("figure.chart").first
    chart.scroll_into_view_if_needed()
    expect(chart).to_have_attribute("data-live", "")
    dot = chart.locator(".mark-symbol path").last
    dot.hover()
    expect(opened.locator("#vg-tooltip-element")).to_contain_text(".png")
    dot.click()
    expect(opened.get_by_role("dialog")).to_be_visible()
    address = opened.url
    opened.goto("about:blank")
    opened.goto(address)
    expect(opened.get_by_role("dialog")).to_be_visible(), "the address of a frame can be passed on"


def test_touch_shows_hides_and_turns(browser: Browser, path: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, offline=True)
    opened = context.new_page()
    opened.goto(path.as_uri())
    opened.locator(".grid button").first.tap()
    stage = opened.locator(".stage svg")
    stage.tap()
    expect(stage.locator("path.truth")).to_be_hidden()
    opened.get_by_role("dialog").get_by_role("button", name="Truth").tap()
    expect(stage.locator("path.truth")).to_be_visible()
    client = context.new_cdp_session(opened)

    def touch(kind: str, *xs: int) -> None:
        points = [{"x": x, "y": 300, "id": number} for number, x in enumerate(xs)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 300)
    touch("touchMove", 200)
    touch("touchMove", 100)
    touch("touchEnd")
    expect(opened.get_by_role("dialog", name="1.png")).to_be_visible()
    whole = stage.get_attribute("viewBox")
    touch("touchStart", 180, 220)
    touch("touchMove", 120, 280)
    touch("touchEnd")
    expect(stage).not_to_have_attribute("viewBox", whole or "")
    context.close()


def test_frames_beside_the_page_are_shown_too(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path / "index.html", limit=0)
    opened = browser.new_page()
    opened.goto(f"{(tmp_path / 'index.html').as_uri()}{frame_link('7.png')}")
    expect(opened.get_by_role("dialog", name="7.png")).to_be_visible()
    assert_drawn(opened)
    opened.close()


def test_without_javascript_all_else_is_shown(browser: Browser, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    opened = context.new_page()
    opened.goto(path.as_uri())
    expect(opened.locator("noscript p")).to_be_visible()
    expect(opened.locator("#frames")).to_be_hidden()
    expect(opened.get_by_role("img", name="Dice by subject")).to_be_visible()
    context.close()
