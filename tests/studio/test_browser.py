"""Tests of the page in a real browser without a window, which may reach this machine alone."""
import re
import shutil
from collections.abc import Iterator

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (requirements-test.txt)")

from tests.studio.running import running_studio

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")]
SECONDS = 90_000  # milliseconds that the page may take on a busy machine
PROMPT = "a red circle moves right on a black background"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The address of a studio in a process of its own, which Ctrl-C ends at once."""
    with running_studio("--port", "7900", "--output-dir", str(tmp_path_factory.mktemp("outputs"))) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


WIDTHS = pytest.mark.parametrize("page", [1280, 390], ids=["wide", "narrow"], indirect=True)


@pytest.fixture
def page(request, browser, address) -> Iterator:
    """The open page, 1280 or as many pixels wide as asked; whatever it asks of another machine fails the test."""
    foreign, wide = [], getattr(request, "param", 1280)
    page = browser.new_page(viewport={"width": wide, "height": 900})
    page.set_default_timeout(SECONDS)
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(
        (address, "data:", "blob:")) else None)
    page.goto(address)
    page.wait_for_function("document.querySelector('#make-sampler input')?.value && "
                           "document.querySelector('#make-about .note')")
    page.wait_for_timeout(1000)  # the form has the model's settings, which would replace what is typed at once
    yield page
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert not foreign and width <= wide, "nothing is wider than the window"


def message(page, text: str) -> str:
    """The page's message, once it has this text in it."""
    page.wait_for_function("text => document.querySelector('#make-message')?.innerText.includes(text)", arg=text)
    return page.inner_text("#make-message")


@WIDTHS
def test_a_video_is_made_and_plays(page, address):
    page.fill("#make-prompts textarea", PROMPT)
    page.fill("#make-steps input", "4")
    page.click("#make-start")
    assert message(page, "video(s) in studio/").startswith("1 video(s)")
    video = page.wait_for_selector("#make-videos video")
    page.wait_for_function("document.querySelector('#make-videos video').readyState >= 2")
    assert page.evaluate("document.querySelector('#make-videos video').videoWidth") == 64
    assert video.get_attribute("loop") is not None
    assert "memory" in page.inner_text("#make-planned") and page.query_selector("#make-course polyline")
    record = page.request.get(address + page.get_attribute("#make-videos a[target]", "href").replace(address, ""))
    assert record.json()["prompt"] == PROMPT and record.json()["config"]["model"]["sampler_config"]["params"][
        "num_steps"] == 4
    page.fill("#make-prompts textarea", "something else")
    page.click("#make-again")
    page.wait_for_function("text => document.querySelector('#make-prompts textarea').value == text", arg=PROMPT)


def test_a_run_is_stopped_and_keeps_what_is_finished(page):
    page.fill("#make-prompts textarea", "\n".join([PROMPT] * 40))
    page.fill("#make-steps input", "60")
    page.click("#make-start")
    message(page, "video 2 of 40")
    page.click("#make-stop")
    said = message(page, "stopped;")
    finished = int(re.search(r"(\d+) of 40", said).group(1))
    assert 1 <= finished < 40
    page.wait_for_function("count => document.querySelectorAll('#make-videos video').length == count", arg=finished)


def test_a_picture_given_at_once_is_kept_and_a_broken_one_is_one_line(page, tmp_path):
    page.click("#make-model input")
    page.click("[role=option]:has-text('tiny_i2v')")
    page.wait_for_selector("#make-image input[type=file]", state="attached")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    page.set_input_files("#make-image input[type=file]", str(broken))
    page.wait_for_selector("#make-image a[download]")
    page.wait_for_timeout(1500)  # in which Gradio's second word of the model's choice is over
    page.click("#make-start")
    said = message(page, "error:")
    assert "damaged" in said and "Traceback" not in said and len(said.splitlines()) == 1


def test_parameters_follow_the_class(page):
    page.click("#make-guider input")
    page.fill("#make-guider input", "APG")
    page.keyboard.press("Enter")
    page.click("button:has-text('Parameters of the guider')")
    page.wait_for_selector("label:has-text('norm_threshold')")
    scale = page.get_by_label("scale", exact=True)
    assert scale.input_value() == "1.5", "that of the guider before"
    scale.fill("")
    page.click("#make-start")
    assert "scale is missing" in message(page, "error:")


def test_a_wrong_number_is_one_line_and_again_restores_what_was_changed_since(page):
    page.fill("#make-samples input", "0")
    page.click("#make-start")
    assert "videos is 0" in message(page, "error:")
    page.wait_for_selector("#make-start:not([disabled])")
    page.fill("#make-samples input", "1")
    page.fill("#make-steps input", "2")
    page.click("#make-start")
    message(page, "1 video(s) in studio/")
    page.click("button:has-text('Parameters of the guider')")
    scale = page.get_by_label("scale", exact=True)
    made_with = scale.input_value()
    scale.fill("4")
    page.click("#make-again")
    page.wait_for_function("value => [...document.querySelectorAll('label')].some(label => label.innerText.trim()"
                           ".startsWith('scale') && label.querySelector('input')?.value == value)", arg=made_with)
    assert page.get_by_label("scale", exact=True).input_value() == made_with != "4"
