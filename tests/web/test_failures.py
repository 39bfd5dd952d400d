"""What goes wrong, as the page tells it: files that are no image, questions without an answer, no server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.servers import Server
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.jpg"
    path.write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:4000])
    return path


def test_every_broken_file_among_several_is_named_until_it_is_removed(
    server: Server, opened: Visit, broken: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("milk")
    view = opened(server.url, expected=("Failed to load resource",))
    page = view.page
    files = [EXAMPLES / "cat.jpg", broken, tmp_path / "notes.txt", EXAMPLES / "rocket.jpg"]
    page.set_input_files("#file", files)
    page.wait_for_function("() => document.querySelectorAll('#refused li').length === 2")
    first, second = sorted(page.locator("#refused p").all_inner_texts())
    assert first.startswith("broken.jpg ")
    assert "damaged" in first or "truncated" in first
    assert second.startswith("notes.txt ")
    assert "no image that can be shown" in second
    assert page.locator("#gallery button").count() == 2
    assert "rocket.jpg" in page.get_attribute("#image", "alt")
    page.click("#language")
    assert "broken.jpg 图片已损坏或不完整。" in page.inner_text("#refused")
    for left in (1, 0):
        page.locator("#refused button").first.click()
        assert page.locator("#refused li").count() == left
    assert page.evaluate("() => document.activeElement.id") == "question"
    page.set_input_files("#file", files[1])
    page.wait_for_selector("#refused li")
    view.ask("Is it night?")
    assert page.is_hidden("#refused"), "an answer makes room"


def test_a_broken_file_alone_leads_back_to_the_choice(server: Server, opened: Visit, broken: Path) -> None:
    view = opened(server.url, expected=("Failed to load resource",))
    page = view.page
    page.set_input_files("#file", broken)
    page.wait_for_selector("#refused li")
    assert page.inner_text("#refused").startswith("broken.jpg ")
    assert page.is_visible("#choose")
    assert page.is_hidden("#gallery"), "what cannot be shown is nothing to come back to"
    page.set_input_files("#file", broken)
    page.wait_for_selector("#choose:not([hidden])")
    assert page.locator("#refused li").count() == 1
    view.open_file(EXAMPLES / "cat.jpg")
    view.ask("What animal is this?")
    page.set_input_files("#file", broken)
    page.wait_for_function("() => document.getElementById('image').alt.includes('cat.jpg')")
    assert page.inner_text("#words") == "What animal is this?"


def test_a_link_waits_for_an_image_that_can_be_read(server: Server, opened: Visit, broken: Path) -> None:
    view = opened(f"{server.url}/#file=cat.jpg&q=Is+it+night%3F", expected=("Failed to load resource",))
    view.page.set_input_files("#file", broken)
    view.page.wait_for_selector("#refused li")
    assert "about cat.jpg" in view.page.inner_text("#asked")
    view.open_file(EXAMPLES / "cat.jpg")
    view.page.wait_for_selector("#result:not([hidden])")
    assert view.page.inner_text("#words") == "Is it night?"


def test_a_refusal_while_an_answer_is_made_stays(server: Server, opened: Visit, broken: Path) -> None:
    view = opened(f"{server.url}/#file=cat.jpg&q=Is+it+night%3F", expected=("Failed to load resource",))
    page = view.page
    release = view.hold("**/v1/answer")
    page.set_input_files("#file", [broken, EXAMPLES / "cat.jpg"])
    page.wait_for_selector("#refused li")
    for said in ("正在回答…", "Asking …"):
        page.click("#language")
        assert page.inner_text("#send") == said
    release()
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#words") == "Is it night?"
    assert page.locator("#refused li").count() == 1


def test_what_is_typed_stays_where_a_file_is_refused(server: Server, opened: Visit, broken: Path) -> None:
    view = opened(server.url, expected=("Failed to load resource",))
    page = view.page
    view.open_file(EXAMPLES / "cat.jpg")
    view.ask("What animal is this?")
    release = view.hold("**/v1/images")
    page.set_input_files("#file", broken)
    page.fill("#question", "Is it ni")
    release()
    page.wait_for_selector("#refused li")
    assert page.inner_text("#words") == "What animal is this?"
    page.keyboard.type("ght?")
    assert page.input_value("#question") == "Is it night?"


def test_a_link_says_that_it_waits_beside_another_image(server: Server, opened: Visit, broken: Path) -> None:
    view = opened(f"{server.url}/#file=rocket.jpg&q=Is+it+night%3F", expected=("Failed to load resource",))
    page = view.page
    page.set_input_files("#file", [EXAMPLES / "cat.jpg", broken])
    page.wait_for_selector("#refused li")
    assert page.is_visible("#viewer")
    assert "about rocket.jpg" in page.inner_text("#asked")
    page.click("#language")
    assert page.inner_text("#asked").startswith("这个链接对 rocket.jpg 提问")
    view.open_file(EXAMPLES / "rocket.jpg")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#words") == "Is it night?"
    assert page.is_hidden("#asked")


def test_a_link_to_an_example_that_is_not_to_be_had_asks_nothing(server: Server, opened: Visit) -> None:
    view = opened(server.url, expected=("Failed to load resource", "ERR_"))
    page = view.page
    view.open_file(EXAMPLES / "cat.jpg")
    page.route("**/examples/rocket.jpg", lambda route: route.abort())
    page.evaluate("() => { location.hash = '#image=rocket&q=Is+it+night%3F'; }")
    page.wait_for_selector("#error:not([hidden])")
    assert page.input_value("#question") == ""


def test_a_stop_holds_while_it_waits_for_a_busy_server(server: Server, opened: Visit) -> None:
    page = opened(server.url, expected=("Failed to load resource",)).page
    tries: list[Any] = []

    def busy(route: Any) -> None:
        tries.append(route)
        body = {"error": {"code": "overloaded", "message": "busy"}}
        route.fulfill(status=503, headers={"Retry-After": "2"}, json=body)

    page.route("**/v1/images", busy)
    code = """async () => {
      const { Api } = await import("/web/api.js");
      const stop = new AbortController();
      const options = { session: "a", signal: stop.signal, progress: () => {} };
      const sent = new Api().upload(new File(["x"], "x.jpg"), options);
      setTimeout(() => stop.abort(), 500);
      return sent.catch((error) => error.name);
    }"""
    assert page.evaluate(code) == "AbortError"
    assert len(tries) == 1


def test_broken_heic_is_named(opened: Visit, server: Server, tmp_path: Path) -> None:
    (tmp_path / "IMG_2.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(400))
    view = opened(server.url, expected=("Failed to load resource",))
    view.page.set_input_files("#file", [EXAMPLES / "cat.jpg", tmp_path / "IMG_2.HEIC"])
    view.page.wait_for_selector("#refused li")
    assert "IMG_2.HEIC This HEIC photograph cannot be read here." in view.page.inner_text("#refused")
    assert "cat.jpg" in view.page.get_attribute("#image", "alt")


def test_an_image_that_was_not_sent_is_marked(opened: Visit, server: Server) -> None:
    view = opened(server.url, expected=("Failed to load resource", "ERR_"))
    page = view.page
    page.route("**/v1/images", lambda route: route.abort())
    page.set_input_files("#file", [EXAMPLES / "cat.jpg", EXAMPLES / "rocket.jpg"])
    page.wait_for_function("() => document.querySelectorAll('#gallery .unsent').length === 2")
    assert page.inner_text("#error").startswith("rocket.jpg: The server cannot be reached.")
    page.unroute("**/v1/images")
    page.click("#gallery li:first-child button")
    assert page.is_hidden("#error")
    view.ask("What animal is this?")
    assert page.locator("#gallery .unsent").count() == 1


def test_errors_in_words(server: Server, opened: Visit) -> None:
    view = opened(server.url, expected=("Failed to load resource",))
    page = view.page
    view.open_file(EXAMPLES / "cat.jpg")
    page.click("#send")
    assert page.inner_text("#error") == "Type a question first."
    page.fill("#question", "Ω≈ç√∫ ˜µ≤≥ åß∂ƒ©")
    page.click("#send")
    page.wait_for_function("() => !document.getElementById('error').textContent.startsWith('Type')")
    english = page.inner_text("#error")
    page.click("#language")
    assert page.inner_text("#error").startswith("模型看不懂这个问题。")
    page.click("#language")
    assert page.inner_text("#error") == english
    view.ask("What animal is this?")
    assert page.is_hidden("#error")


@pytest.mark.parametrize("away", [False, True])
def test_a_question_without_an_answer_takes_the_former_answer_away(opened: Visit, server: Server, away: bool) -> None:
    view = opened(server.url, expected=("Failed to load resource", "ERR_"))
    page = view.page
    view.open_example()
    answer = view.ask("What animal is this?")["results"][0]["answer"]
    page.context.set_offline(away)
    page.fill("#question", "Is it night?" if away else "Ω≈ç√∫ ˜µ≤≥ åß∂ƒ©")
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    if away:
        assert "try again" in page.inner_text("#error")
    for part in ("#result", "#code", "#legend", "#outline", "#view", "#save", "#link"):
        assert page.is_hidden(part), part
    assert page.inner_text("#where") == ""
    assert (
        page.evaluate("() => document.getElementById('overlay').getContext('2d').getImageData(9, 9, 1, 1).data[3]") == 0
    )
    assert "#" not in page.url
    assert page.inner_text("#history li").split("\n")[0] == "What animal is this?"
    if away:
        page.click("#language")
        assert page.inner_text("#error").endswith("请确认它仍在运行，然后再试。")
        page.click("#language")
        page.context.set_offline(False)
        with page.expect_response("**/v1/answer"):
            page.click("#send")
            assert page.is_hidden("#error"), "an error goes away with the next try"
        page.wait_for_selector("#result:not([hidden])")
        assert page.inner_text("#words") == "Is it night?"
    else:
        page.click("#history button")
        assert page.inner_text("#answer-line .answer") == answer
        assert page.input_value("#question") == "What animal is this?"
        assert page.is_hidden("#error")
        assert page.is_hidden("#earlier")


def test_where_another_layer_fails_the_answer_stays_and_the_lists_say_what_is_shown(
    opened: Visit, server: Server
) -> None:
    view = opened(server.url, expected=("Failed to load resource", "ERR_"))
    page = view.page
    view.open_example()
    view.ask("What animal is this?")
    page.context.set_offline(True)
    page.select_option("#layer", label="2")
    page.wait_for_selector("#error:not([hidden])")
    assert page.is_visible("#result")
    assert page.input_value("#layer") == ""
