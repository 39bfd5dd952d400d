"""Maps as the page draws them: over the image, where the model's are, and told in words that agree with them."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.app.servers import Server, wait_for
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
    """Whether the most covered pixel (spotlight: the lightest, of a grey photograph) is less than a cell away from the
    centre of a strongest one: between two strong neighbours a smooth map rises above both, up to the strongest
    nearby."""
    pixels = drawn(page).astype(float)
    cover = pixels[..., 3]
    if page.input_value("#colours") == "spotlight":
        cover = pixels[..., :3].mean(axis=2) * cover / 255 + 128 * (1 - cover / 255)
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


def test_what_is_off_the_image_is_told(server: Server, opened: Visit) -> None:
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
        assert page.inner_text("#elsewhere").endswith("% off the image") is (elsewhere >= 0.005)


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


def peak_of(response: dict[str, Any]) -> tuple[float, float]:
    """Where the answer's map is strongest, as shares of the image's sides (x, y)."""
    found = values(response["results"][0]["answer_map"], response["attention"]["grid"])
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return (column + 0.5) / found.shape[1], (row + 0.5) / found.shape[0]


def test_in_a_spotlight_the_strongest_part_is_outlined(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    response = view.ask("What animal is this?")
    width, height = response["image"]["width"], response["image"]["height"]
    path = page.get_attribute("#outline path", "d")
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float) / (width, height)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    x, y = peak_of(response)
    assert left < x < right
    assert top < y < bottom
    assert page.is_visible("#outlined")
    page.check("#box")
    frame, box = page.locator("#frame").bounding_box(), page.locator("#region").bounding_box()
    grid = response["attention"]["grid"]
    for low, high, at, size, cells in (
        (left, right, "x", "width", grid["columns"]), (top, bottom, "y", "height", grid["rows"]),
    ):  # fmt: skip
        start = (box[at] - frame[at]) / frame[size]
        assert abs(start - low) < 0.2 / cells, "the box is around the outline"
        assert abs(start + box[size] / frame[size] - high) < 0.2 / cells
    page.fill("#opacity", "0")
    assert page.is_hidden("#outline")
    page.fill("#opacity", "80")
    assert page.is_visible("#outline")
    page.select_option("#colours", "viridis")
    assert page.is_hidden("#outline"), "there the colour tells"


def test_an_outline_is_no_larger_than_an_eighth_and_closed(server: Server, opened: Visit) -> None:
    code = """async ([values, rows, columns]) => {
      const { strongestCells } = await import("/web/maps.js");
      const { outline } = await import("/web/outline.js");
      const [width, height] = [10 * columns, 10 * rows];
      const attention = { grid: { rows, columns }, region: { left: 0, top: 0, right: width, bottom: height } };
      const map = { values: Float32Array.from(values), elsewhere: 0 };
      const { cells } = strongestCells(map, attention);
      return [[...cells], outline(map, attention, { width, height }).path];
    }"""
    page = opened(server.url).page
    noise = np.random.default_rng(0).random((12, 16))
    for made in (noise, np.ones((12, 16)), 0.9 + noise / 10, np.pad([[1.0]], ((0, 11), (0, 15)))):
        cells, path = page.evaluate(code, [made.ravel().tolist(), *made.shape])
        assert int(made.argmax()) in cells
        assert len(cells) <= made.size / 8
        ends = re.findall(r"[ML]([\d.]+ [\d.]+)", path)
        assert ends
        assert all(ends.count(end) % 2 == 0 for end in ends), "where one line ends another begins"


def test_what_is_looked_at_is_seen_on_black(server: Server, opened: Visit, tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "black.png")
    view = opened(server.url)
    view.open_file(tmp_path / "black.png")
    x, y = peak_of(view.ask("What is it?"))
    view.page.evaluate("() => { document.getElementById('outline').hidden = true; }")
    shot = np.asarray(Image.open(io.BytesIO(view.page.locator("#frame").screenshot())).convert("L")).astype(int)
    lit = shot[int(y * shot.shape[0]), int(x * shot.shape[1])]
    assert lit > 25
    assert lit > np.median(shot) + 10


def off_the_image(route: Any) -> None:
    """An answer of which nine tenths counted nowhere in the image."""
    response = route.fetch()
    body = response.json()
    body["attention"]["kind"] = "gradient"
    found = body["results"][0]["answer_map"]
    found["elsewhere"] = 9 * values(found, body["attention"]["grid"]).sum()
    route.fulfill(response=response, json=body)


def test_a_map_that_is_mostly_off_the_image_says_so_and_is_faint(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    answer = view.ask("Is there a boat?")["results"][0]["answer"]
    page.check("#box")
    assert page.is_visible("#region")
    page.route("**/v1/answer", off_the_image)
    view.ask("Is there a  boat?")
    assert page.inner_text("#where").startswith(f"90% of what counted for “{answer}” is not in the image.")
    assert page.is_hidden("#outline")
    assert page.is_hidden("#region")
    assert drawn(page)[..., 3].max() < 60
    for colours in ("viridis", "spotlight"):
        page.select_option("#colours", colours)
        assert drawn(page)[..., 3].max() < 60
    assert page.is_hidden("#outline")


def test_what_a_model_that_writes_chose_is_drawn_as_what_it_wrote(server: Server, opened: Visit) -> None:
    """It attends to its text most, whatever is asked."""

    def chosen(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        result = body["results"][0]
        body["attention"]["kind"] = "raw"
        result["answer_map"]["elsewhere"] = 0.95
        result |= {"score_over": "candidates", "answer_tokens": result["question_tokens"][:1]}
        route.fulfill(response=response, json=body)

    view = opened(server.url)
    view.page.route("**/v1/answer", chosen)
    view.open_example()
    answer = view.ask("What animal is this?")["results"][0]["answer"]
    assert view.page.inner_text("#where").startswith(f"For “{answer}” it looked most at the ")
    assert drawn(view.page)[..., 3].max() > 100


def test_where_a_read_text_stands_is_no_look(server: Server, opened: Visit) -> None:
    def read(route: Any) -> None:
        response = route.fetch()
        body = response.json()
        body["results"][0] |= {"answer": "STOP", "score": 0.9, "score_over": "text"}
        route.fulfill(response=response, json=body)

    view = opened(server.url)
    view.page.route("**/v1/answer", read)
    view.open_example()
    view.ask("What does the sign say?")
    assert view.page.inner_text("#where").startswith("The text “STOP” stands at the ")
    view.page.hover("[data-target=q3]")
    assert view.page.inner_text("#where").startswith("“sign” looked most at the ")
