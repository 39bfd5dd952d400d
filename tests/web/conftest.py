"""Headless Chromium in front of a real server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.app.servers import ROOT, Server, serving

# The system's browser; None is the one that `playwright install chromium` fetched, where there is such.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EXAMPLES = ROOT / "examples"


@dataclass
class Watched:
    """A page, and whatever it did that a good page does not do."""

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)
    # Parts of console messages that a test provokes itself; reading the canvas back is one.
    expected: list[str] = field(default_factory=lambda: ["willReadFrequently"])

    def watch(self) -> None:
        """Record console messages, exceptions and requests to other hosts."""
        self.page.on("console", lambda message: self._fault(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self._fault(f"exception: {error}"))
        self.page.on("request", lambda request: self._request(request.url))

    def _fault(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.faults.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith((self.url, "blob:")):
            self.faults.append(f"request to {url}")

    def open_example(self, name: str = "cat") -> None:
        """Choose one of the example images."""
        self.page.click(f"#examples [data-name={name}]")
        self.page.wait_for_selector("#viewer:not([hidden])")

    def open_file(self, path: Path) -> None:
        """Choose a file, as the button does."""
        self.page.set_input_files("#file", path)
        self.page.wait_for_selector("#viewer:not([hidden])")

    def hold(self, path: str, then: Callable[[Any], None] = lambda route: route.continue_()) -> Callable[[], None]:
        """Keep requests for a path until the returned function is called, which waits for one; then go on with all."""
        held: list[Any] = []

        def keep(route: Any) -> None:
            held.append(route)

        def release() -> None:
            while not held:
                self.page.wait_for_timeout(20)
            for route in held:
                then(route)
            self.page.unroute(path)

        self.page.route(path, keep)
        return release

    def focused(self, selector: str) -> bool:
        """Whether what has the focus is that."""
        found: bool = self.page.evaluate("s => document.activeElement.matches(s)", selector)
        return found

    def ask(self, question: str) -> dict[str, Any]:
        """Ask, wait until the answer is shown, and return the response that the page got."""
        self.page.fill("#question", question)
        with self.page.expect_response(lambda r: r.url.endswith("/v1/answer") and r.status == 200) as caught:
            self.page.click("#send")
        self.page.wait_for_function("q => document.querySelector('#words').textContent === q", arg=question)
        response: dict[str, Any] = caught.value.json()
        return response


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for all tests of this folder. No longer: while it is there, Playwright's event loop runs in the main
    thread, where asynchronous tests cannot run theirs beside it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the scripts install it)")
    with playwright.sync_playwright() as driver:
        if CHROMIUM is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("needs Chromium: the system's package, or .venv/bin/playwright install chromium")
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the tiny model."""
    with serving(tmp_path_factory.mktemp("web") / "server.log", loader=None, model="tiny", threads=1) as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens pages, and at the end fails for whatever they should not have done."""
    pages: list[Watched] = []

    def visit(url: str, *, expected: tuple[str, ...] = (), **options: Any) -> Watched:
        # Without motion a map is drawn at once, so that a test need not wait for its fade.
        usual = {"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", "reduced_motion": "reduce"}
        context = browser.new_context(**{**usual, **options})
        context.set_default_timeout(15_000)
        watched = Watched(context.new_page(), url.partition("#")[0])
        watched.expected += expected
        watched.watch()
        pages.append(watched)
        watched.page.goto(url)
        watched.page.wait_for_load_state("networkidle")
        return watched

    yield visit
    for watched in pages:
        watched.page.context.close()
    assert [fault for watched in pages for fault in watched.faults] == []
