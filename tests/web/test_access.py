"""The page for everybody: by keyboard alone, on a phone, in Chinese, in the dark, and to assistive technology."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.app.servers import Server
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]


def test_keyboard_alone(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page

    def focus(selector: str, most: int = 30) -> None:
        for _ in range(most):
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab never reached {selector}")

    focus("#examples [data-name=rocket]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer:not([hidden])")
    focus("#question")
    page.keyboard.press("Control+A")
    page.keyboard.type("Is it night?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])")
    focus("[data-target=q0]")
    assert "“Is”" in page.inner_text("#where")
    page.keyboard.press("ArrowRight")
    assert "“it”" in page.inner_text("#where")
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-target=q1]", "aria-pressed") == "true"
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Escape")
    assert page.get_attribute("[data-target=answer]", "aria-pressed") == "true"


def test_the_focus_stays_where_lists_are_made_anew(server: Server, opened: Visit) -> None:
    view = opened(server.url, expected=("Failed to load resource", "ERR_"))
    page = view.page
    view.open_file(EXAMPLES / "cat.jpg")
    page.click("#change")
    page.locator("#gallery button").focus()
    page.keyboard.press("Enter")
    assert view.focused("#question"), "there is no gallery of one image that is shown"
    page.set_input_files("#file", [EXAMPLES / "cat.jpg", EXAMPLES / "rocket.jpg"])
    page.wait_for_function("() => document.getElementById('where').textContent === 'Image ready.'")
    page.locator("#gallery button").first.focus()
    page.keyboard.press("Enter")
    assert "cat.jpg" in page.get_attribute("#image", "alt")
    assert view.focused("#gallery li:first-child button[aria-current=true]")
    for question in ("What animal is this?", "Is the cat sleeping?"):
        view.ask(question)
    page.locator("#history button").last.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#words") == "What animal is this?"
    assert view.focused("#history li:last-child button[aria-current=true]")
    release = view.hold("**/v1/images", lambda route: route.abort())
    page.set_input_files("#file", EXAMPLES / "coffee.jpg")
    page.locator("#gallery button").first.focus()
    release()
    page.wait_for_selector("#gallery .unsent")
    assert view.focused("#gallery li:first-child button")


def test_phone(server: Server, opened: Visit) -> None:
    view = opened(server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    view.expected.append("Failed to load resource")
    page = view.page
    assert page.is_visible("#camera")
    view.open_example("coffee")
    view.ask("What color is the cup?")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    # The answer is brought into sight, below the image.
    bottom = page.locator("#viewer").bounding_box()
    words = page.locator("#words").bounding_box()
    assert bottom["y"] + bottom["height"] <= words["y"] < 740
    page.tap("[data-target=q4]")
    assert "“cup”" in page.inner_text("#where")
    page.locator("#ranking").scroll_into_view_if_needed()
    box = page.locator("#frame").bounding_box()
    assert box["y"] >= 0  # the image stays in sight
    assert box["y"] + box["height"] < 740
    page.fill("#question", "Ω≈ç√∫ ˜µ≤≥ åß∂ƒ©")
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    error = page.locator("#error").bounding_box()
    assert error["y"] + error["height"] <= 740, "what went wrong is seen"


def test_chinese_and_dark(server: Server, opened: Visit) -> None:
    view = opened(server.url, locale="zh-CN", color_scheme="dark")
    page = view.page
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("#choose") == "选择图片"
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(18, 20, 23)"
    view.open_example()
    view.ask("What animal is this?")
    assert "在它知道的所有答案中" in page.inner_text("#answer-line")
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(246, 245, 241)"
    page.click("#language")
    page.reload()
    assert page.get_attribute("html", "lang") == "en"
    assert page.evaluate(ground) == "rgb(246, 245, 241)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 360])
def test_axe_finds_nothing(server: Server, opened: Visit, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    view = opened(server.url, color_scheme=scheme, viewport={"width": width, "height": 800})
    view.expected += ["Failed to load resource"]
    page = view.page

    def check(state: str) -> None:
        for _ in range(2):  # English and Chinese, and back
            found = axe.run(page)
            language = page.get_attribute("html", "lang")
            assert found.violations_count == 0, f"{state}, {language}: {found.generate_report()}"
            page.click("#language")

    check("empty")
    page.set_input_files("#file", {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff\xe0"})
    page.wait_for_selector("#refused li")
    check("refused")
    view.open_example()
    view.ask("What animal is this?")
    view.ask("Is the cat sleeping?")
    page.click("#explain")
    page.check("#box")
    page.click("#code summary")
    page.click("#ask summary")
    check("answered")
    page.click("#code summary")
    page.click("#change")
    check("another image")
    page.click("#gallery button")
    page.fill("#question", "Ω≈ç√∫ ˜µ≤≥ åß∂ƒ©")
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    check("error")
