"""Our own client against a real server."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crosslook
from crosslook import errors
from tests.clients.conftest import coloured


def half_and_half() -> Image.Image:
    """Left half blue, right half red."""
    image = Image.new("RGB", (120, 80), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 60, 80))
    return image


def test_every_kind_of_image_gives_the_same_answer(url: str, red: bytes, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(red)
    pil = Image.open(io.BytesIO(red))
    images: list[crosslook.ImageLike] = [red, path, str(path), io.BytesIO(red), pil, np.asarray(pil)]
    with crosslook.Client(url) as client:
        images.append(client.upload(red))
        answers = [client.answer(image, "What colour is it?") for image in images]
    assert {answer.answer for answer in answers} == {"red"}
    assert len({answer.map.values for answer in answers if answer.map}) == 1


def test_maps_lie_on_the_image(url: str, tmp_path: Path) -> None:
    image = half_and_half()
    with crosslook.Client(url) as client:
        answer = client.answer(image, "Is the blue left of the red?", maps="u8")
    assert answer.for_word("blue").peak().x < 60 < answer.for_word("red").peak().x
    assert answer.map is not None
    array = answer.map.array()
    assert array.shape == (4, 6)
    assert array.sum() + answer.map.elsewhere == pytest.approx(1.0, abs=0.02)
    drawn = answer.for_word("blue").overlay(image)
    assert drawn.size == image.size


def test_caption_and_match(url: str, red: bytes) -> None:
    with crosslook.Client(url) as client:
        caption = client.caption(red, "this is")
        matches = client.match(red, ["a red one", "a blue one"])
    assert str(caption) == "this is a red image"
    assert [word.text for word in caption.words] == ["this", "is", "a", "red", "image"]
    assert [match.text for match in matches] == ["a red one", "a blue one"]
    assert matches[0].score > 0.9 > matches[1].score
    assert matches[0].for_word("red").array().shape == (4, 6)


def test_what_the_server_says_of_itself(url: str) -> None:
    with crosslook.Client(url) as client:
        assert client.health().ready
        card = client.models()[0]
        assert (card.id, card.limits.image_bytes) == ("colours", 100_000)


async def test_sync_and_async_give_the_same(url: str, red: bytes) -> None:
    async with crosslook.AsyncClient(url) as client:
        found = await client.answer(red, ["What colour?", "Which red?"])
        many = await client.ask_many([(coloured(name), "What colour?") for name in ("red", "green", "blue")])
    assert [answers[0].answer for answers in many] == ["red", "green", "blue"]

    def blocking() -> list[crosslook.Answer]:
        with crosslook.Client(url) as client:
            return client.answer(red, ["What colour?", "Which red?"])

    same = await asyncio.to_thread(blocking)
    assert [answer.raw for answer in found] == [answer.raw for answer in same]


def test_ask_many_reports_its_progress(url: str) -> None:
    seen: list[tuple[int, int]] = []
    items = [(coloured("red", (20 + n, 20)), "!slow 0.01") for n in range(6)]
    with crosslook.Client(url) as client:
        results = client.ask_many(items, concurrency=3, progress=lambda *at: seen.append(at))
    assert [len(answers) for answers in results] == [1] * 6
    assert seen == [(n, 6) for n in range(1, 7)]


def test_errors(url: str, red: bytes, big: bytes, huge: bytes) -> None:
    with crosslook.Client(url, retries=0) as client:
        with pytest.raises(errors.UnsupportedImage) as caught:
            client.answer(b"no image", "What?")
        assert (caught.value.status, caught.value.param) == (415, "image")
        assert caught.value.request_id
        with pytest.raises(errors.ImageTooLarge):
            client.answer(big, "What?")
        with pytest.raises(errors.BodyTooLarge):
            client.answer(huge, "What?")
        with pytest.raises(errors.QuestionEmpty) as empty:
            client.answer(red, ["What?", " "])
        assert empty.value.param == "questions[1]"
        with pytest.raises(errors.QuestionNotUnderstood):
            client.answer(red, "xyzzy?")
        with pytest.raises(errors.ModelNotFound):
            client.answer(red, "What?", model="other")
        with pytest.raises(errors.ImageNotFound):
            client.answer(crosslook.ImageRef(id="img_gone", width=1, height=1), "What?")
        with pytest.raises(errors.URLNotAllowed):
            client.answer("http://127.0.0.1/red.png", "What?")


def test_refusals(guarded: str, key: str, red: bytes) -> None:
    with crosslook.Client(guarded, retries=0) as stranger, pytest.raises(errors.AuthenticationFailed):
        stranger.answer(red, "What?")
    with crosslook.Client(guarded, api_key=key, retries=0) as client:
        with pytest.raises(errors.Overloaded) as overloaded:
            client.answer(red, "What?")
        assert overloaded.value.retry_after is not None
        with pytest.raises(errors.RateLimited) as limited:
            client.answer(red, "What?")
        assert limited.value.retry_after is not None
        assert limited.value.retry_after > 30
