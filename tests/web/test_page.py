"""The page in a real browser, against a real server."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model.compact.model import tiny
from tests.app.servers import ROOT, Server, serving
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]


def test_a_click_pins_a_word(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example("rocket")
    view.ask("What is in the sky?")
    view.page.click("[data-target=q4]")
    view.page.mouse.move(5, 5)
    assert view.page.get_attribute("[data-target=q4]", "aria-pressed") == "true"
    assert "“sky”" in view.page.inner_text("#where")
    view.page.keyboard.press("Escape")
    assert view.page.get_attribute("[data-target=answer]", "aria-pressed") == "true"


def test_layers_that_the_model_shows_by_default(tmp_path: Path, opened: Visit) -> None:
    """They come first, all others can be chosen, and what was chosen is what is asked for."""
    made = tiny()
    made.net.config = replace(made.net.config, default_map_kind="gradient", default_map_layers=(1,))
    made.save(tmp_path / "model")
    with serving(tmp_path / "server.log", loader=None, model=tmp_path / "model", threads=1) as server:
        view = opened(server.url)
        view.open_example("coffee")
        attention = view.ask("What is in the cup?")["attention"]
        assert (attention["kind"], attention["layers"]) == ("gradient", [1])
        page = view.page
        assert page.input_value("#kind") == "gradient"
        assert page.locator("#layer option").all_inner_texts() == ["2", "all", "1"]
        for label, layers in (("all", [0, 1]), ("1", [0]), ("2", [1])):
            with page.expect_response("**/v1/answer") as caught:
                page.select_option("#layer", label=label)
            assert caught.value.json()["attention"]["layers"] == layers
            page.wait_for_timeout(300)


def test_second_question_and_back(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example()
    view.page.wait_for_function("() => document.getElementById('where').textContent === 'Image ready.'")
    encoded = [r for r in server.log.read_text().splitlines() if "POST /v1/images" in r]
    view.ask("What animal is this?")
    second = view.ask("Is the cat sleeping?")
    page = view.page
    assert page.locator("#history li").count() == 2
    page.click("#history button:not([aria-current=true])")
    assert page.inner_text("#words") == "What animal is this?"
    page.click("#history button:not([aria-current=true])")
    assert page.inner_text("#answer-line .answer") == second["results"][0]["answer"]
    assert len([r for r in server.log.read_text().splitlines() if "POST /v1/images" in r]) == len(encoded)


def test_the_lists_say_what_is_shown(server: Server, opened: Visit) -> None:
    """Each answer was asked with a kind and layers of its own; the next is asked with those in the lists."""
    view = opened(server.url)
    view.open_example()
    page = view.page
    usual = view.ask("What animal is this?")["attention"]
    view.ask("Is the cat sleeping?")
    kind = page.locator("#kind option:not(:checked)").first.get_attribute("value")
    for choose in (lambda: page.select_option("#kind", kind), lambda: page.select_option("#layer", label="2")):
        with page.expect_response("**/v1/answer"):
            choose()
        page.wait_for_selector("#result[aria-busy=false]")

    def lists() -> list[str]:
        return [page.input_value("#kind"), page.input_value("#layer")]

    assert lists() == [kind, "1"]
    page.click("#history button:not([aria-current=true])")
    assert lists() == [usual["kind"], ""]
    assert "map_kind" not in page.text_content("#curl")
    page.click("#history button:not([aria-current=true])")
    assert lists() == [kind, "1"]
    attention = view.ask("What color is the cat?")["attention"]
    assert (attention["kind"], attention["layers"]) == (kind, [1])
    page.locator("#history button").last.click()
    attention = view.ask("Where is the cat?")["attention"]
    assert (attention["kind"], attention["layers"]) == (usual["kind"], usual["layers"])


def test_what_is_asked_alike_is_listed_once(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example()
    page = view.page
    usual = view.ask("What animal is this?")["attention"]["kind"]
    view.ask("Is the cat sleeping?")
    kind = page.locator("#kind option:not(:checked)").first.get_attribute("value")

    def choose(name: str) -> None:
        with page.expect_response("**/v1/answer"):
            page.select_option("#kind", name)
        page.wait_for_selector("#result[aria-busy=false]")

    choose(kind)
    view.ask("What animal is this?")
    assert page.locator("#history li").count() == 3
    choose(usual)
    assert page.locator("#history li").count() == 2
    assert page.locator("#history [aria-current=true]").count() == 1


def test_given_answers(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example()
    view.page.click("#ask summary")
    view.page.fill("#candidates", "cat, dog，horse")
    response = view.ask("What animal is this?")
    assert {row["answer"] for row in response["results"][0]["ranking"]} == {"cat", "dog", "horse"}
    assert view.page.locator("#ranking li").count() == 3
    assert "among the given answers" in view.page.inner_text("#answer-line")
    unknown = [row["answer"] for row in response["results"][0]["ranking"] if row.get("in_vocabulary") is False]
    assert view.page.is_hidden("#unknown") is not bool(unknown)
    assert all(answer in view.page.text_content("#unknown") for answer in unknown)


def test_paste_and_drop(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    data = base64.b64encode((EXAMPLES / "rocket.jpg").read_bytes()).decode()
    event = """([kind, data]) => {
      const bytes = Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0));
      const files = new DataTransfer();
      files.items.add(new File([bytes], `${kind}.jpg`, { type: "image/jpeg" }));
      document.body.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true })
        : new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    for kind in ("paste", "drop"):
        view.page.evaluate(event, [kind, data])
        view.page.wait_for_function("name => document.getElementById('image').alt.includes(name)", arg=f"{kind}.jpg")
        assert view.ask("Is it night?")["image"]["width"] == 640


def test_an_image_that_the_server_dropped(opened: Visit, tmp_path: Path) -> None:
    with serving(tmp_path / "log", loader=None, model="tiny", threads=1, cache_bytes=0) as forgetful:
        view = opened(forgetful.url, expected=("Failed to load resource",))
        view.open_example()
        assert view.ask("What animal is this?")["image"]["width"] == 451


def test_a_server_that_asks_for_a_key(opened: Visit, tmp_path: Path) -> None:
    keys = f"me:{hashlib.sha256(b'open sesame').hexdigest()}"
    with serving(tmp_path / "log", loader=None, model="tiny", threads=1, api_keys=keys) as locked:
        view = opened(locked.url, expected=("Failed to load resource",))
        view.open_example()
        view.page.fill("#key", "芝麻开门")
        view.page.press("#key", "Enter")
        view.page.wait_for_function("() => document.getElementById('error').textContent.includes('characters')")
        assert view.page.is_visible("#key-form")
        view.page.fill("#key", "open sesame")
        view.page.press("#key", "Enter")
        view.page.wait_for_function("() => document.getElementById('where').textContent === 'Image ready.'")
        assert view.focused("#question")
        view.ask("What animal is this?")
        assert "Bearer $CROSSLOOK_API_KEY" in view.page.text_content("#curl")


def test_the_code_it_shows_works(server: Server, opened: Visit, tmp_path: Path) -> None:
    view = opened(server.url)
    view.open_example()
    answer = view.ask("What's on the cat's nose?")["results"][0]["answer"]
    (tmp_path / "cat.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes())
    curl = view.page.text_content("#curl")
    output = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f'"answer":"{answer}"' in output
    python = view.page.text_content("#python")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(answer)
    with Image.open(tmp_path / "map.png") as drawn_map:
        assert drawn_map.size == (451, 300)


@pytest.mark.parametrize("name", ["photo, 2.jpg", "a;b 'x\".jpg", "back\\slash.jpg"])
def test_its_curl_finds_a_file_of_any_name(server: Server, opened: Visit, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((EXAMPLES / "cat.jpg").read_bytes())
    view = opened(server.url)
    view.open_file(tmp_path / name)
    answer = view.ask("What animal is this?")["results"][0]["answer"]
    curl = view.page.text_content("#curl")
    output = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f'"answer":"{answer}"' in output


def test_the_api_documentation_answers(server: Server, opened: Visit) -> None:
    page = opened(server.url).page
    page.click("#docs")
    page.click("#operations-native-answer .opblock-summary-control")
    page.click("#operations-native-answer .try-out__btn")
    with page.expect_response("**/v1/answer") as caught:
        page.click("#operations-native-answer .execute")
    assert caught.value.status == 200
    assert caught.value.json()["results"][0]["question"] == "What color is the dot?"
