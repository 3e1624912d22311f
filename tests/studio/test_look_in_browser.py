"""The pages on which one looks, in a real browser: compare, gallery and studies, at two widths."""
import re
import shutil

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (requirements-test.txt)")

from benchmarks.studies.filters import filter_bar, filtered_by
from benchmarks.studies.page import page as report_page
from tests.studio.running import running_studio

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")]
LONG = 120_000  # milliseconds that four videos of the small model may take on a busy machine
STEPS = ("2", "3")

expect = sync_api.expect
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder with a report, in which a foreign script stands."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "a_study").mkdir()
    rows = "".join(f"<p {filtered_by({'sampler': name})}>{name}</p>" for name in ("Euler", "Heun"))
    content = f"{rows}<script>document.title = 'foreign'</script><img src=x onerror=\"document.title = 'foreign'\">"
    text = report_page("a study", [("Rows", content)], "", filter_bar({"sampler": ["Euler", "Heun"]}))
    (folder / "a_study/report.html").write_text(re.sub("<meta http-equiv.*?>", "", text))  # as if it had no policy
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory, studies):
    """The address of a studio over empty outputs."""
    with running_studio("--base", "configs/tiny_t2v.yaml", "--output-dir", str(tmp_path_factory.mktemp("outputs")),
                        "--studies", str(studies), "--port", "7990") as found:
        yield found


@pytest.fixture(scope="module")
def tab(address):
    """A page of the browser, which may reach this machine alone, and its requests for anything else."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.elsewhere = []
        page.on("request", lambda request: page.elsewhere.append(request.url) if not request.url.startswith(
            (address, "data:", "blob:", address.replace("http", "ws"))) else None)
        page.set_default_timeout(LONG)
        page.goto(address)
        yield page
        browser.close()


def opened(tab, name):
    """Open a tab, by its menu where the screen is too narrow to show all."""
    there, menu = tab.get_by_role("tab", name=name), tab.locator(".overflow-menu button").first
    for _ in range(LONG // 1000):
        tab.wait_for_timeout(300)
        try:  # while the page is built all tabs are in the menu, and nothing can be clicked
            if not there.is_visible():
                menu.click(timeout=1000)
                tab.locator(".overflow-dropdown").get_by_text(name).click(timeout=1000)
                return
            there.click(timeout=1000)
            return
        except sync_api.TimeoutError:
            continue
    pytest.fail(f"there is no tab {name}")


@pytest.fixture(scope="module")
def compared(tab):
    """The page after two samplers were compared at two numbers of steps."""
    opened(tab, "Compare")
    values = tab.locator("#compare-columns-values")
    for _ in range(2):
        values.locator("input").press("Backspace")
    for steps in STEPS:
        values.locator("input").fill(steps)
        values.locator("input").press("Enter")
    values.locator("input").press("Tab")  # closes the list
    tab.click("#compare-start")
    expect(tab.locator("#compare-message")).to_contain_text("4 of 4 videos made", timeout=LONG)
    expect(tab.locator("#compare-grid video")).to_have_count(4)
    return tab


def times(tab):
    return tab.evaluate("[...document.querySelectorAll('#compare-grid video')].map(video => video.currentTime)")


def test_two_samplers_are_compared_and_their_videos_play_in_step(compared):
    grid = compared.locator("#compare-grid")
    for sampler in ("EulerEDMSampler", "UniPCSampler"):
        for steps in STEPS:
            expect(grid).to_contain_text(f"{sampler}, {steps} steps")
    compared.wait_for_function("document.querySelector('#compare-grid video').currentTime > 0.3")
    found = times(compared)
    assert max(found) - min(found) < 0.25
    grid.locator(".time").fill("9")
    expect(grid.locator(".at")).to_have_text("frame 10 of 17")
    assert times(compared) == pytest.approx([9.5 / 8] * 4)
    assert compared.evaluate("[...document.querySelectorAll('#compare-grid video')].every(video => video.paused)")


def test_differences_are_shown_as_picture_and_in_decibels_to_the_chosen_video(compared):
    grid = compared.locator("#compare-grid")
    grid.locator(".time").fill("5")
    expect(grid.locator(".at")).to_have_text("frame 6 of 17")
    expect(grid.locator(".now").last).to_contain_text(re.compile(r"\d dB$"))
    drawn = """[...document.querySelectorAll('#compare-grid canvas')].map(canvas => canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data.some((value, i) => i % 4 < 3 && value > 30))"""
    compared.wait_for_function(f"({drawn}).some(some => some)")
    assert compared.evaluate("[...document.querySelectorAll('#compare-grid canvas')].map(c => c.width)") == [64] * 3
    before = grid.locator("figure[data-reference]").inner_text()
    choice = compared.locator("#compare-reference input")
    choice.click()
    compared.get_by_role("option", name=f"UniPCSampler, {STEPS[1]} steps").click()
    expect(grid.locator("figure[data-reference]")).to_contain_text(f"UniPCSampler, {STEPS[1]} steps")
    assert "EulerEDMSampler" in before and grid.locator("canvas").count() == 3


def test_what_is_wrong_is_one_line(compared):
    prompt = compared.locator("#compare-prompt input, #compare-prompt textarea")
    text = prompt.input_value()
    prompt.fill("  ")
    compared.click("#compare-start")
    expect(compared.locator("#compare-message .problem")).to_have_text(
        "error: the prompt is empty; write what the video shows")
    prompt.fill(text)


def test_the_gallery_has_all_videos_filters_them_and_compares_two(compared):
    opened(compared, "Gallery")
    count = compared.locator("#gallery-count")
    expect(count).to_contain_text("4 of 4 videos")  # made since the page was opened
    compared.locator("#gallery-sampler input").click()
    compared.get_by_role("option", name="UniPCSampler").click()
    expect(count).to_contain_text("2 of 4 videos")
    compared.locator("#gallery-words input, #gallery-words textarea").fill("nothing like this")
    expect(count).to_contain_text("0 of 4 videos")
    compared.locator("#gallery-words input, #gallery-words textarea").fill("RED circle")
    expect(count).to_contain_text("2 of 4 videos")
    for i in range(2):
        compared.locator("#gallery-cards [data-do=pick]").nth(i).click()
        expect(compared.locator("#gallery-cards .picked")).to_have_count(i + 1)
    expect(compared.locator("#gallery-both video")).to_have_count(2)
    compared.locator("#gallery-cards [data-do=record]").first.click()
    expect(compared.locator("#gallery-record")).to_contain_text('"prompt"')


def test_a_comparison_is_stopped(compared):
    opened(compared, "Compare")
    message = compared.locator("#compare-message")
    compared.click("#compare-start")
    expect(message).to_contain_text(re.compile(r"waiting|video \d of 4:"))
    compared.click("#compare-stop")
    expect(message).to_contain_text("stopped; what was finished is kept", timeout=LONG)
    expect(compared.locator("#compare-grid")).to_contain_text("stopped")
    compared.click("#compare-stop")
    expect(message).to_contain_text("nothing runs")


def test_values_given_right_after_their_kind_are_kept(compared):
    values = compared.locator("#compare-columns-values")
    compared.click("#compare-columns input")
    compared.get_by_role("option", name="guidance scale").click()
    expect(values).not_to_contain_text(STEPS[0])
    values.locator("input").fill("1.5")
    values.locator("input").press("Enter")
    compared.wait_for_timeout(1500)  # in which Gradio's second word of the choice is over
    expect(values).to_contain_text("1.5")


def test_a_report_is_filtered_and_its_foreign_script_does_not_run(tab):
    opened(tab, "Studies")
    report = tab.locator("#studies-report iframe")
    expect(report).to_have_attribute("sandbox", "allow-scripts")
    assert report.bounding_box()["width"] > 0.9 * tab.viewport_size["width"]
    frame = tab.frame_locator("#studies-report iframe")
    frame.locator("select[name=sampler]").select_option("Heun")
    expect(frame.locator("p:visible")).to_have_text(["Heun"])
    (inner,) = [one for one in tab.frames if "a_study" in one.url]
    assert inner.evaluate("document.title") == "a study"


@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_fits_the_screen(compared, width, tmp_path):
    compared.set_viewport_size({"width": width, "height": 900})
    for name in ("Compare", "Gallery", "Studies"):
        opened(compared, name)
        compared.wait_for_timeout(300)
        assert compared.evaluate("document.documentElement.scrollWidth") <= width, name
        compared.screenshot(path=tmp_path / f"{name}_{width}.png", full_page=True)


def test_nothing_was_asked_of_another_machine(compared):
    assert compared.elsewhere == []
