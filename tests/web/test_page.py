"""The page in a real browser, against a real server."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.compact.model import tiny
from tests.app.servers import ROOT, Server, serving, wait_for
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]

PIXELS = """() => {
  const canvas = document.getElementById("overlay");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return { width: canvas.width, height: canvas.height, data: btoa(Array.from(data, (v) => String.fromCharCode(v)).join("")) };
}"""  # noqa: E501


def drawn(page: Any) -> NDArray[np.uint8]:
    """What the canvas over the image shows: RGBA ``[height, width, 4]``."""
    found = page.evaluate(PIXELS)
    return np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(found["height"], found["width"], 4)


def values(wire: dict[str, Any], grid: dict[str, int]) -> NDArray[np.float64]:
    """A u8 map of the wire."""
    cells = np.frombuffer(base64.b64decode(wire["data"]), np.uint8).astype(float) * wire["scale"]
    return cells.reshape(grid["rows"], grid["columns"])


def word_map(response: dict[str, Any], index: int) -> NDArray[np.float64]:
    """The map of a word: the mean of its tokens'."""
    result, grid = response["results"][0], response["attention"]["grid"]
    tokens = result["question_words"][index]["tokens"]
    return np.mean([values(result["question_tokens"][token]["map"], grid) for token in tokens], axis=0)


def hot_spot_is_right(page: Any, expected: NDArray[np.float64], response: dict[str, Any]) -> bool:
    """Whether the most covered pixel (spotlight: the least covered) is less than a cell away from the centre of a
    strongest one: between two strong neighbours a smooth map rises above both, up to the strongest nearby."""
    cover = drawn(page)[..., 3].astype(int)
    if page.input_value("#colours") == "spotlight":
        cover = cover.max() - cover
    y, x = np.unravel_index(int(cover.argmax()), cover.shape)
    image, region = response["image"], response["attention"]["region"]
    across = (x + 0.5) / cover.shape[1] * image["width"]
    down = (y + 0.5) / cover.shape[0] * image["height"]
    rows, columns = expected.shape
    row = (down - region["top"]) / (region["bottom"] - region["top"]) * rows - 0.5
    column = (across - region["left"]) / (region["right"] - region["left"]) * columns - 0.5
    strongest = np.argwhere(expected >= 8 / 9 * expected.max())
    return bool(cover.max() > 0 and np.abs(strongest - (row, column)).max(axis=1).min() < 1)


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_ask_an_example_and_point_at_every_word(server: Server, opened: Visit, motion: str) -> None:
    view = opened(server.url, reduced_motion=motion)
    view.open_example()
    response = view.ask("What animal is this?")
    result = response["results"][0]
    answer_map = values(result["answer_map"], response["attention"]["grid"])
    page = view.page
    assert page.inner_text("#answer-line .answer") == result["answer"]
    assert page.locator("#ranking li").count() == len(result["ranking"]) + 1
    assert wait_for(lambda: hot_spot_is_right(page, answer_map, response), 15)  # a map fades in
    assert page.locator("#words .word").all_inner_texts() == ["What", "animal", "is", "this"]
    shown = {hashlib.sha256(drawn(page).tobytes()).hexdigest()}
    for index in range(4):
        page.hover(f"[data-target=q{index}]")
        expected = word_map(response, index)
        assert wait_for(lambda expected=expected: hot_spot_is_right(page, expected, response), 15)
        assert page.locator(f"[data-target=q{index}].shown").count() == 1
        shown.add(hashlib.sha256(drawn(page).tobytes()).hexdigest())
    assert len(shown) == 5
    assert page.inner_text("#where").startswith("“this” looked most at the ")
    page.mouse.move(5, 5)
    assert page.inner_text("#where").startswith(f"For “{result['answer']}” it looked most at the ")
    assert wait_for(lambda: hot_spot_is_right(page, answer_map, response), 15)


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


def test_view_options(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example("coffee")
    response = view.ask("What is in the cup?")
    page = view.page
    assert page.input_value("#colours") == "spotlight"
    before = drawn(page)
    page.fill("#opacity", "0")
    assert drawn(page)[..., 3].max() == 0
    page.fill("#opacity", "100")
    assert drawn(page)[..., 3].max() == 255
    page.select_option("#colours", "magma")
    assert drawn(page)[..., 3].max() == 255
    assert drawn(page)[..., 3].min() < 100, "what was not looked at stays visible"
    assert (drawn(page)[..., :3] != before[..., :3]).any()
    page.uncheck("#smooth")
    cells = len(np.unique(drawn(page).reshape(-1, 4), axis=0))
    grid = response["attention"]["grid"]
    assert cells <= grid["rows"] * grid["columns"]
    with page.expect_response("**/v1/answer") as caught:
        page.select_option("#layer", label="2")
    assert caught.value.json()["attention"]["layers"] == [1]
    page.reload()
    assert page.input_value("#colours") == "magma"


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


def test_rotated_image(server: Server, opened: Visit, tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "rocket.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "rotated.jpg", exif=exif)
    view = opened(server.url)
    view.open_file(tmp_path / "rotated.jpg")
    response = view.ask("What is in the sky?")
    assert (response["image"]["width"], response["image"]["height"]) == (427, 640)
    box = view.page.locator("#frame").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(427 / 640, rel=0.01)
    answer_map = values(response["results"][0]["answer_map"], response["attention"]["grid"])
    assert hot_spot_is_right(view.page, answer_map, response)


def test_errors_in_words(server: Server, opened: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:4000])
    view = opened(server.url, expected=("Failed to load resource",))
    page = view.page
    page.set_input_files("#file", broken)
    page.wait_for_selector("#error:not([hidden])")
    assert "damaged" in page.inner_text("#error") or "truncated" in page.inner_text("#error")
    view.open_file(EXAMPLES / "cat.jpg")
    assert page.is_hidden("#error")
    page.click("#send")
    assert page.inner_text("#error") == "Type a question first."
    page.fill("#question", "Ω≈ç√∫ ˜µ≤≥ åß∂ƒ©")
    page.click("#send")
    page.wait_for_function("() => !document.getElementById('error').textContent.startsWith('Type')")
    english = page.inner_text("#error")
    page.click("#language")
    page.click("#send")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("模型看不懂这个问题。")
    assert page.inner_text("#error") != english
    page.click("#language")
    view.ask("What animal is this?")
    assert page.is_hidden("#error")


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


def test_only_shares_are_shown_per_cent(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example()
    page = view.page
    response = view.ask("What animal is this?")
    for kind in ("gradient", "raw", "rollout"):
        if page.input_value("#kind") != kind:
            with page.expect_response("**/v1/answer") as caught:
                page.select_option("#kind", kind)
            page.wait_for_selector("#result[aria-busy=false]")
            response = caught.value.json()
        elsewhere = response["results"][0]["answer_map"]["elsewhere"]
        assert page.inner_text("#elsewhere").endswith("% off the image") is (kind != "gradient" and elsewhere >= 0.005)


def test_save_as_png(server: Server, opened: Visit, tmp_path: Path) -> None:
    view = opened(server.url)
    view.open_example("rocket")
    view.ask("What is in the sky?")
    view.page.click("[data-target=q4]")
    view.page.select_option("#colours", "viridis")

    def saved(opacity: str) -> NDArray[np.int_]:
        view.page.fill("#opacity", opacity)
        with view.page.expect_download() as caught:
            view.page.click("#save")
        caught.value.save_as(tmp_path / "map.png")
        with Image.open(tmp_path / "map.png") as image:
            assert (image.format, image.width) == ("PNG", 640)
            whole = np.asarray(image.convert("RGB"), int)
        written = whole[427:]  # question, answer and scale, in dark letters on white
        assert len(written) > 80
        assert (written.max(axis=2) < 110).mean() > 0.005
        assert (written == 255).mean() > 0.5
        return whole[:427]

    with Image.open(EXAMPLES / "rocket.jpg") as original:
        assert np.abs(saved("0") - np.asarray(original, int)).mean() < 2  # two decoders of one JPEG
    covered = saved("100")
    cover = drawn(view.page)[..., 3]
    y, x = np.unravel_index(int(cover.argmax()), cover.shape)
    row, column = int((y + 0.5) / cover.shape[0] * 427), int((x + 0.5) / cover.shape[1] * 640)
    assert np.abs(covered[row, column] - (253, 231, 37)).max() < 40  # viridis at its strongest


def test_the_api_documentation_answers(server: Server, opened: Visit) -> None:
    page = opened(server.url).page
    page.click("#docs")
    page.click("#operations-native-answer .opblock-summary-control")
    page.click("#operations-native-answer .try-out__btn")
    with page.expect_response("**/v1/answer") as caught:
        page.click("#operations-native-answer .execute")
    assert caught.value.status == 200
    assert caught.value.json()["results"][0]["question"] == "What color is the dot?"
