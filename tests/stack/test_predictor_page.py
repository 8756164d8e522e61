"""The predictor's page in a browser, with a network that takes bright pixels for nerve."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from bright_predictor import HEIGHT, USUAL, WIDTH, ellipse, frame, serving, training

CORNER = (20, 110, 18, 11)
FRAMES = {"frame [1].png": frame(*USUAL), "corner.png": frame(*CORNER), "black.png": frame(), "text.png": b"no picture"}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(tmp_path_factory.mktemp("predictor"), training()) as client:
        yield client


@pytest.fixture
def page(client: httpx.Client, browser: Browser) -> Iterator[Page]:
    """The page; a test fails where a script of it did, or where it asked another server."""
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if elsewhere(request.url) else None)

    def elsewhere(url: str) -> bool:
        return not url.startswith((str(client.base_url), "data:", "blob:"))

    page.goto(str(client.base_url))
    yield page
    page.close()
    assert wrong == []


def choose(page: Page, *names: str) -> None:
    files = [{"name": name, "mimeType": "image/png", "buffer": FRAMES[name]} for name in names]
    page.set_input_files("#file", files)
    expect(page.locator("#list .sign", has_text="…")).to_have_count(0)


def download(page: Page, button: str, path: Path) -> bytes:
    with page.expect_download() as begun:
        page.get_by_role("button", name=button).click()
    begun.value.save_as(path / begun.value.suggested_filename)
    return (path / begun.value.suggested_filename).read_bytes()


def test_several_frames_are_assessed_in_words_and_listed(page: Page) -> None:
    page.get_by_label("Pixel spacing").fill("0.1")
    choose(page, *FRAMES)
    expect(page.locator("#counts")).to_have_text("4 frames · 1 typical · 1 atypical · 1 without a nerve · 1 failed")
    sentence, entries, area = page.locator("#assessment"), page.locator("#list button"), int(ellipse(*USUAL).sum())
    expect(sentence).to_contain_text("This mask is like the training masks")
    expect(page.locator("#area-mm2")).to_have_text(f"{area * 0.01:.4g} mm²")
    kinds = ["typical", "atypical", "empty"]
    said = ["like the training masks", "more atypical than 95 %", "No nerve was found in this frame"]
    colours = set()
    for entry, kind, words in zip(entries.all(), kinds, said, strict=False):
        entry.click()
        expect(sentence).to_contain_text(words)
        expect(sentence).to_have_class(f"assessment {kind}")
        colours.add(sentence.evaluate("element => getComputedStyle(element).borderLeftColor"))
    assert len(colours) == 3
    entries.nth(3).click()
    expect(page.get_by_role("alert")).to_have_text("text.png: The file is not a PNG, JPEG, TIFF or BMP.")
    expect(page.locator("#result")).to_be_hidden()


def test_the_mask_can_be_hidden_and_enlarged_by_keyboard(page: Page) -> None:
    choose(page, "frame [1].png", "corner.png")
    view, fill, name = page.locator("#view"), page.locator("#fill"), page.locator("#name")
    drawn = fill.evaluate(
        "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.filter((_, i) => i % 4 === 3)"
    )
    assert np.array_equal(np.reshape(drawn, (HEIGHT, WIDTH)) > 0, ellipse(*USUAL) > 0)
    view.focus()
    page.keyboard.press("m")
    expect(fill).to_be_hidden()
    expect(page.locator("#outline")).to_be_hidden()
    page.keyboard.press("m")
    expect(fill).to_be_visible()
    page.get_by_label("Opacity").fill("80")
    assert fill.evaluate("element => getComputedStyle(element).opacity") == "0.8"
    before = page.locator("#frame").bounding_box()
    view.focus()
    page.keyboard.press("+")
    expect(page.locator("#zoom")).to_have_text("150 %")
    after = page.locator("#frame").bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(1.5 * before["width"], abs=1)
    page.keyboard.press("n")
    expect(name).to_have_text("corner.png")
    expect(page.locator("#zoom")).to_have_text("100 %")


def test_mask_overlay_and_table_can_be_downloaded(page: Page, client: httpx.Client, tmp_path: Path) -> None:
    choose(page, "frame [1].png", "text.png")
    mask = download(page, "Download mask", tmp_path)
    assert mask == client.post("/v1/segment?format=mask", files={"frame": FRAMES["frame [1].png"]}).content
    assert (tmp_path / "frame [1]_predicted_mask.png").exists()
    overlay = cv2.imdecode(np.frombuffer(download(page, "Download overlay", tmp_path), np.uint8), cv2.IMREAD_COLOR)
    coloured = overlay[..., 0] != overlay[..., 2]
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    assert np.count_nonzero(coloured & (ellipse(*USUAL) == 0)) < 200, "the outline alone"
    assert coloured[ellipse(*USUAL) > 0].all()
    rows = list(csv.DictReader(io.StringIO(download(page, "Download table", tmp_path).decode())))
    assert [(row["image"], row["assessment"]) for row in rows] == [("frame [1].png", "typical"), ("text.png", "failed")]
    assert rows[0]["area"] == str(ellipse(*USUAL).sum())


def test_the_session_is_in_memory_alone(page: Page) -> None:
    choose(page, "frame [1].png")
    expect(page.locator("#session")).to_contain_text("in the memory of this tab alone")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert page.evaluate("indexedDB.databases()") == []
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#session")).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()
    choose(page, "frame [1].png")
    page.reload()
    expect(page.locator("#session")).to_be_hidden()


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size(PHONE)
    choose(page, *FRAMES)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
