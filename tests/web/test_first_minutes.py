"""What a newcomer meets in the first minutes: a slow line, several images, links, photographs of all makes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app.servers import Server
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long
Visit = Callable[..., Watched]


def noise(path: Path, size: tuple[int, int], **options: Any) -> Path:
    """A photograph that is large on disk: its upper left quarter is white, the rest noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = 255
    Image.fromarray(pixels).save(path, **options)
    return path


def slow_line(page: Any, rate: float) -> None:
    """So many bytes a second, as on a bad line; 0: as it was."""
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate or -1}
    client.send("Network.emulateNetworkConditions", conditions)


def test_a_slow_upload_tells_how_far_it_is_and_can_be_stopped(server: Server, opened: Visit, tmp_path: Path) -> None:
    view = opened(server.url)
    page = view.page
    slow_line(page, 30_000)
    view.open_file(noise(tmp_path / "noise.jpg", (600, 400), quality=99))
    page.wait_for_function("() => document.getElementById('sent').value > 0")
    assert page.is_visible("#progress")
    assert re.fullmatch(r"Sending the image, \d+(\.\d)?%", page.inner_text("#progress-text"))
    page.click("#cancel")
    assert page.inner_text("#progress-text") == "The image was not sent."
    assert page.is_hidden("#error")
    assert view.focused("#retry")
    slow_line(page, 0)
    page.click("#retry")
    page.wait_for_selector("#progress", state="hidden")
    assert view.focused("#question")
    assert view.ask("What is it?")["image"]["width"] == 600


def test_after_a_stop_the_next_question_sends_the_image(server: Server, opened: Visit, tmp_path: Path) -> None:
    view = opened(server.url)
    slow_line(view.page, 30_000)
    view.open_file(noise(tmp_path / "noise.jpg", (600, 400), quality=99))
    view.page.click("#cancel")
    slow_line(view.page, 0)
    assert view.ask("What is it?")["image"]["width"] == 600
    assert view.page.is_hidden("#progress")


def test_a_large_photograph_is_made_smaller_first_and_stands_upright(
    server: Server, opened: Visit, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise: what is at the upper left comes to the upper right
    path = noise(tmp_path / "large.jpg", (2400, 1200), quality=90, exif=exif)
    view = opened(server.url)
    view.open_file(path)
    response = view.ask("What is it?")
    assert (response["image"]["width"], response["image"]["height"]) == (640, 1280)
    size, corner, other = view.page.evaluate(
        """async () => {
          const { lighter } = await import("/web/photo.js");
          const small = await lighter(document.getElementById("file").files[0]);
          const bitmap = await createImageBitmap(small);
          const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
          const context = canvas.getContext("2d");
          context.drawImage(bitmap, 0, 0);
          const at = (x, y) => Math.min(...context.getImageData(x, y, 1, 1).data);
          return [small.size, at(480, 320), at(160, 960)];
        }"""
    )
    assert size < path.stat().st_size / 2
    assert corner > 240, "the white quarter is at the upper right"
    assert other < 240


def test_several_images_keep_their_questions(server: Server, opened: Visit, tmp_path: Path) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    view.ask("What animal is this?")
    view.ask("Is the cat sleeping?")
    view.open_file(EXAMPLES / "rocket.jpg")
    assert page.is_hidden("#result")
    assert page.locator("#suggestions button").count() > 2, "what may be asked about any photograph"
    view.ask("Is it night?")
    assert page.locator("#gallery button").count() == 2
    assert page.is_hidden("#earlier")
    page.click("#gallery li:first-child button")
    assert page.inner_text("#words") == "Is the cat sleeping?"
    assert page.input_value("#question") == "Is the cat sleeping?"
    assert page.locator("#history li").count() == 2
    assert "cat.jpg" in page.get_attribute("#image", "alt")
    page.click("#gallery li:last-child button")
    assert page.inner_text("#words") == "Is it night?"
    view.ask("Is there smoke?")
    view.ask("Is there smoke?")
    assert page.locator("#history li").count() == 2
    page.click("#change")
    assert page.is_visible("#examples")
    assert page.is_hidden("#question")
    assert "#" not in page.url
    view.open_example("cat")  # again: it keeps what was asked about it
    assert page.inner_text("#words") == "Is the cat sleeping?"
    assert page.locator("#gallery button").count() == 2
    assert page.is_hidden("#drop")


def test_a_link_asks_again(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_example("rocket")
    page = view.page
    page.click("#ask summary")
    page.fill("#candidates", "day, night")
    answer = view.ask("Is it day or night?")["results"][0]
    page.click("[data-target=q3]")
    address = page.url
    assert "#image=rocket&q=Is+it+day+or+night%3F&candidate=day&candidate=night" in address
    other = opened(address)
    other.page.wait_for_selector("#result:not([hidden])")
    assert other.page.inner_text("#words") == "Is it day or night?"
    assert other.page.inner_text("#answer-line .answer") == answer["answer"]
    assert other.page.get_attribute("[data-target=q3]", "aria-pressed") == "true"
    assert other.page.locator("#ranking li").count() == 2
    assert other.page.is_visible("#candidates"), "they hold for the next question, too"


def test_a_link_about_ones_own_photograph_asks_for_it(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    view.open_file(EXAMPLES / "cat.jpg")
    view.ask("What animal is this?")
    other = opened(view.page.url)
    assert "“What animal is this?” about cat.jpg" in other.page.inner_text("#asked")
    other.open_file(EXAMPLES / "cat.jpg")
    other.page.wait_for_selector("#result:not([hidden])")
    assert other.page.inner_text("#words") == "What animal is this?"
    assert other.page.is_hidden("#asked")


def test_the_old_question_is_selected_for_the_next(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    view.ask("What animal is this?")
    page.click("#words .word >> nth=0")
    page.focus("#question")
    page.keyboard.type("Is it night?")
    assert page.input_value("#question") == "Is it night?"
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#words').textContent === 'Is it night?'")
    page.keyboard.type("Is it day?")
    assert page.input_value("#question") == "Is it day?"


def test_heic_is_shown_with_the_servers_help(opened: Visit, server: Server, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    with Image.open(EXAMPLES / "cat.jpg") as image:
        image.save(tmp_path / "IMG_1.HEIC", format="HEIF")
    view = opened(server.url)
    release = view.hold("**/v1/overlay")
    view.open_file(tmp_path / "IMG_1.HEIC")
    assert view.ask("What animal is this?")["image"]["width"] == 451
    view.page.fill("#question", "Is it ni")
    release()
    view.page.wait_for_function("() => document.getElementById('image').naturalWidth === 451")
    assert view.page.input_value("#question") == "Is it ni"
    assert view.page.is_hidden("#error")


def test_the_strongest_region_has_a_box_on_request(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    response = view.ask("What animal is this?")
    assert page.is_hidden("#region")
    page.check("#box")
    frame, box = page.locator("#frame").bounding_box(), page.locator("#region").bounding_box()
    grid = response["attention"]["grid"]
    cells = np.frombuffer(base64.b64decode(response["results"][0]["answer_map"]["data"]), np.uint8)
    row, column = divmod(int(cells.argmax()), grid["columns"])
    x = frame["x"] + (column + 0.5) / grid["columns"] * frame["width"]
    y = frame["y"] + (row + 0.5) / grid["rows"] * frame["height"]
    assert box["x"] < x < box["x"] + box["width"]
    assert box["y"] < y < box["y"] + box["height"]
    names = [
        ["upper left", "top", "upper right"],
        ["left side", "centre", "right side"],
        ["lower left", "bottom", "lower right"],
    ]
    shares = [(at + 0.5) / of for at, of in ((row, grid["rows"]), (column, grid["columns"]))]
    third = [0 if share <= 0.375 else 1 if share < 0.625 else 2 for share in shares]
    assert page.inner_text("#where").endswith(f" looked most at the {names[third[0]][third[1]]}")


def test_every_kind_is_explained(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    view.open_example()
    view.ask("What animal is this?")
    page.click("#explain")
    assert page.get_attribute("#explain", "aria-expanded") == "true"
    assert page.locator("#kinds dt").all_inner_texts() == page.locator("#kind option").all_inner_texts()
    assert all(page.locator("#kinds dd").all_inner_texts())


def test_the_question_stays_in_sight_on_a_phone(server: Server, opened: Visit) -> None:
    view = opened(server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = view.page
    view.open_example("coffee")
    view.ask("What color is the cup?")

    def uncovered(selector: str) -> bool:
        return page.evaluate(
            """s => {
              const box = document.querySelector(s).getBoundingClientRect();
              const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
              return Boolean(top?.closest(s));
            }""",
            selector,
        )

    assert uncovered("#question")
    assert uncovered("#answer-line")
    page.locator("#ranking").scroll_into_view_if_needed()
    assert uncovered("#question")
    for _ in range(12):  # whatever the keyboard reaches is seen
        page.keyboard.press("Tab")
        page.wait_for_timeout(50)
        assert page.evaluate(
            """() => {
              const box = document.activeElement.getBoundingClientRect();
              if (!box.width || document.activeElement === document.body) return true;
              const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
              return document.activeElement.contains(top) || Boolean(top?.contains(document.activeElement));
            }"""
        ), page.evaluate("() => document.activeElement.outerHTML")


def test_the_skip_link_always_leads_somewhere(server: Server, opened: Visit) -> None:
    view = opened(server.url)
    page = view.page
    for target in ("choose", "question"):
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("() => document.activeElement.id") in (target, "")
        assert page.is_visible(page.get_attribute(".skip", "href"))
        if target == "choose":
            view.open_example()


def test_forced_colours_keep_bars_and_the_chosen_word(server: Server, opened: Visit) -> None:
    view = opened(server.url, forced_colors="active")
    page = view.page
    view.open_example()
    view.ask("What animal is this?")
    fill, ground = page.evaluate(
        """() => ["#ranking .best .fill", "body"]
          .map((s) => getComputedStyle(document.querySelector(s)).backgroundColor)"""
    )
    assert fill != ground
    page.click("[data-target=q1]")
    assert page.evaluate("() => getComputedStyle(document.querySelector('[data-target=q1]')).outlineStyle") == "solid"
