"""Text drawn into images is found, chosen and answered; without a reader nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from model.compact.model import CompactModel, tiny
from model.compact.preprocess import Squash
from model.compact.reading import choice, lines
from model.compact.reading.answer import CANNOT_READ, NO_TEXT, Reading
from model.compact.reading.choice import cover, find_blocks, likeness, likenesses
from model.compact.reading.lines import Line, load_reader
from model.interface import Item, MapRequest, Output, TextOutput


@pytest.fixture(scope="module")
def reader() -> Any:
    return load_reader() or pytest.skip("the extra `reading` is not installed")


def reading_model(reader: Any) -> CompactModel:
    model = tiny()
    model.reading = Reading(reader, model.answers)
    model.info = replace(model.info, preprocess=Squash(64, 4, 4, model.reading.detail))
    return model


def ask(model: CompactModel, image: Image.Image, *questions: str, **options: Any) -> tuple[TextOutput, ...]:
    (encoded,) = model.encode([model.info.preprocess(image)])
    (output,) = model.run("answer", [Item(encoded, questions, **options)])
    assert isinstance(output, Output), output
    return output.texts


def board(
    text: str, box: tuple[int, int], size: int, *, angle: float = 0.0, shear: float = 0.0, seed: int = 0
) -> Image.Image:
    """A board with ``text`` at ``box`` (left, top) of a noisy 480 x 360 image, turned by degrees or sheared."""
    noise = np.random.default_rng(seed).integers(90, 130, (360, 480, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    font = ImageFont.load_default(size)
    left, top, right, bottom = ImageDraw.Draw(image).multiline_textbbox((0, 0), text, font=font)
    sign = Image.new("RGBA", (int(right - left) + 24, int(bottom - top) + 24), (250, 250, 240, 255))
    ImageDraw.Draw(sign).multiline_text((12 - left, 12 - top), text, font=font, fill=(10, 20, 60))
    if shear:
        sign = sign.transform(sign.size, Image.Transform.AFFINE, (1, 0, 0, shear, 1, -shear * sign.width / 2))
    sign = sign.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    image.paste(sign, box, sign)
    return image


@pytest.mark.parametrize(
    ("text", "question", "size", "angle", "shear"),
    [
        ("EXIT", "what does the sign say?", 60, 0, 0),
        ("STOP", "what does the sign say?", 40, 8, 0),
        ("Bakery", "what is written on the board?", 48, 0, 0.15),
        ("Main Street", "what is the name of the street?", 36, -6, 0),
        ("4711", "what number is on the bus?", 50, 0, 0),
        ("Nr. 208", "what number is on the door?", 44, 5, 0),
        ("WELCOME\nTO SPRINGFIELD", "what does the sign say?", 36, 0, 0),
        ("hello world", "what words are on the wall?", 30, 0, -0.1),
        ("07:45", "what number is shown?", 50, 0, 0),
        ("crosslook.org", "what website is shown?", 34, 3, 0),
    ],
)
def test_drawn_text_is_the_answer(reader: Any, text: str, question: str, size: int, angle: float, shear: float) -> None:
    (result,) = ask(reading_model(reader), board(text, (40, 60), size, angle=angle, shear=shear), question)
    wanted = "208" if text == "Nr. 208" else text
    assert max(likeness(ranked.answer, wanted) for ranked in result.ranking) > 0.9, result.ranking
    assert result.score_over == "text"
    assert result.rest is not None
    assert sum(ranked.score for ranked in result.ranking) + result.rest == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["raw", "gradient"])
def test_the_answers_map_is_on_the_text_and_the_words_are_the_networks(reader: Any, kind: Any) -> None:
    model, image = reading_model(reader), board("EXIT", (250, 240), 60)  # lower right
    question, other = "what does the sign say?", "what color is it?"
    result, untouched = ask(model, image, question, other, maps=MapRequest(kind))
    assert result.ranking[0].answer.lower() == "exit"
    assert result.answer_map is not None
    values = result.answer_map.values
    assert float(values.sum()) == pytest.approx(1.0)
    assert result.answer_map.elsewhere == 0.0
    assert float(values[2:, 2:].sum()) > 0.9
    model.reading = None
    plain, same = ask(model, image, question, other, maps=MapRequest(kind))
    for read, looked in zip(result.tokens, plain.tokens, strict=True):
        assert read.map is not None
        assert looked.map is not None
        np.testing.assert_allclose(read.map.values, looked.map.values, atol=1e-6)
    assert untouched.ranking == same.ranking


def test_an_image_is_read_once_and_only_when_asked() -> None:
    calls = []

    def counting(image: Any) -> tuple[Line, ...]:
        calls.append(image.shape)
        return ()

    model = reading_model(counting)
    (image,) = model.encode([model.info.preprocess(board("EXIT", (40, 60), 40))])
    model.run("answer", [Item(image, ("what color is it?",))])
    assert calls == []
    for _ in range(2):
        model.run("answer", [Item(image, ("what does the sign say?", "what number is this?"))])
    assert calls == [(360, 480)]


def test_no_text_and_no_reader_are_said_and_not_guessed() -> None:
    for reader, said in ((lambda image: (), NO_TEXT), (None, CANNOT_READ)):
        (result,) = ask(
            reading_model(reader), board("EXIT", (40, 60), 40), "what does the sign say?", maps=MapRequest("raw")
        )
        assert result.ranking[0].answer == said
        assert result.ranking[0].score < 0.1
        assert result.answer_map is not None
        assert (float(result.answer_map.values.sum()), result.answer_map.elsewhere) == (0.0, 1.0)


def test_the_nearest_candidate_is_chosen(reader: Any) -> None:
    image = board("EXIT", (40, 60), 60)
    (result,) = ask(reading_model(reader), image, "what does the sign say?", candidates=("stop", "exits", "bus lane"))
    assert result.ranking[0].answer == "exits"
    assert result.score_over == "candidates"
    (unread,) = ask(reading_model(None), image, "what does the sign say?", candidates=("stop", "exits"))
    assert [ranked.score for ranked in unread.ranking] == [0.5, 0.5]


def test_lines_of_one_sign_are_a_block_in_reading_order() -> None:
    def line(text: str, left: float, top: float) -> Line:
        return Line(text, (left, top, left + 0.2, top + 0.05), 0.05, 0.9)

    lines = [line("far", 0.7, 0.9), line("street", 0.1, 0.16), line("main", 0.1, 0.1)]
    assert [[found.text for found in block] for block in find_blocks(lines)] == [["main", "street"]]


def test_cells_are_covered_by_as_much_as_the_box_has_of_them() -> None:
    found = cover([Line("a", (0.25, 0.0, 0.75, 0.5), 0.1, 1.0)], 2, 2)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.0, 0.0]])


def test_the_kept_image_counts_in_bytes_and_is_never_enlarged() -> None:
    model = reading_model(lambda image: ())
    image = Image.new("RGB", (2000, 500))
    pixels = model.info.preprocess(image)
    assert pixels.detail is not None
    assert pixels.detail.shape == (240, 960)
    assert model.info.preprocess(Image.new("RGB", (90, 60))).detail.shape == (60, 90)  # type: ignore[union-attr]
    (kept,), (bare,) = model.encode([pixels]), tiny().encode([tiny().info.preprocess(image)])
    assert kept.nbytes - bare.nbytes == 240 * 960


@pytest.mark.parametrize("size", [(8, 2400), (2400, 8), (400, 2400)])
def test_strips_are_read_with_room_beside_them(reader: Any, size: tuple[int, int], monkeypatch: Any) -> None:
    """Enlarged as they are, one of a pixel's height would take gigabytes."""
    given: list[tuple[int, ...]] = []
    monkeypatch.setattr(reader, "_engine", reader._engine or reader._load())
    inner = reader._engine.text_det.__class__.__call__
    monkeypatch.setattr(
        reader._engine.text_det.__class__,
        "__call__",
        lambda self, image: given.append(image.shape) or inner(self, image),
    )
    detail = np.full(size, 255, np.uint8)
    if size == (400, 2400):
        image = Image.fromarray(detail)
        ImageDraw.Draw(image).text((1500, 200), "BAKERY", font=ImageFont.load_default(80), fill=0)
        detail = np.asarray(image)
    found = reader(detail)
    assert max(given[0][:2]) <= 5.5 * min(given[0][:2])
    if size == (400, 2400):
        (line,) = found
        assert line.text == "BAKERY"
        assert line.box == pytest.approx((1500 / 2400, 0.5, 1810 / 2400, 0.7), abs=0.1)
        assert line.height == pytest.approx(0.25, abs=0.1)


def test_lines_that_are_recognised_are_bounded(reader: Any, monkeypatch: Any) -> None:
    """The tallest, in reading order: each takes time, and who asks may have drawn a thousand."""
    image = Image.new("L", (480, 360), 255)
    for number in range(9):
        size = 32 if number in (3, 7) else 20
        ImageDraw.Draw(image).text((40, 10 + 38 * number), f"line {number}", font=ImageFont.load_default(size), fill=0)
    assert len(reader(np.asarray(image))) == 9
    monkeypatch.setattr(lines, "MOST_LINES", 2)
    assert [line.text for line in reader(np.asarray(image))] == ["line 3", "line 7"]


def test_likenesses_are_those_of_pairs() -> None:
    texts, others = ["Main Street", "main", "", "EXIT"], ["MAIN STREET 5", "exit", "Maine", "", "niam"]
    pairs = np.array([[likeness(a, b) for b in others] for a in texts])
    assert likenesses(texts, others, 0.0) == pytest.approx(pairs)
    assert likenesses(texts, others, 0.6) == pytest.approx(np.where(pairs >= 0.6, pairs, 0.0))
    assert likenesses([], others, 0.6).shape == (0, 5)
    assert likenesses(texts, [], 0.6).shape == (4, 0)


def test_what_takes_long_to_compare_is_not(monkeypatch: Any) -> None:
    """Letters of one against letters of the other, up to a bound; texts that are nothing alike cost none of it."""
    monkeypatch.setattr(choice, "_MOST_COMPARED", 50)
    assert likenesses(["abcde"], ["zzzzz", "abcde", "abcde", "abcde"], 0.6).tolist() == [[0.0, 1.0, 1.0, 0.0]]
