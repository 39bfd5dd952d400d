"""Takes the README's screenshots of a running server: python -m tests.web.screenshots [URL]

The system needs a font with Chinese characters (Debian: fonts-noto-cjk).
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.app.servers import ROOT
from tests.web.conftest import CHROMIUM, FLAGS

IMAGES = ROOT / "docs" / "images"


def ask(page: Page, example: str, question: str) -> None:
    """Open an example image and ask."""
    page.click(f"#examples [data-name={example}]")
    page.fill("#question", question)
    for _ in range(2):  # again, so that the time shown is that of a server that runs
        with page.expect_response("**/v1/answer"):
            page.click("#send")
        page.wait_for_selector("#result[aria-busy=false]:not([hidden])")


def save(page: Page, name: str) -> None:
    """One file, small enough for a README."""
    page.wait_for_timeout(400)  # the map's fade
    page.screenshot(path=IMAGES / name, type="jpeg", quality=85)


def main(url: str) -> None:
    """The page in English and light, and in Chinese and dark."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        options = {"viewport": {"width": 1280, "height": 760}, "device_scale_factor": 1.25}
        page = browser.new_page(**options, locale="en-GB", color_scheme="light")
        page.goto(url)
        ask(page, "cat", "What animal is this?")
        save(page, "page.jpg")
        page = browser.new_page(**options, locale="zh-CN", color_scheme="dark")
        page.goto(url)
        ask(page, "coffee", "这是什么饮品？")
        page.select_option("#colours", "magma")
        save(page, "page-dark-zh.jpg")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/")
    print(*sorted(str(Path(path).relative_to(ROOT)) for path in IMAGES.iterdir()), sep="\n")  # noqa: T201
