from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from crosslook import fonts
from crosslook.fonts import Face, Lettering, fit, runs, wrap


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No font but Pillow's own."""
    for name in ("_asked", "_packaged", "_system"):
        monkeypatch.setattr(fonts, name, tuple)
    monkeypatch.setattr(fonts, "_ELSEWHERE", ())
    fonts._face_for.cache_clear()
    yield
    fonts._face_for.cache_clear()


def drawn(text: str) -> np.ndarray:
    image = Image.new("L", (900, 40))
    Lettering(20).draw(ImageDraw.Draw(image), (2, 2), text, 255)  # type: ignore[arg-type] # grey
    return np.asarray(image).astype(int)


PAIRS = ["eo", "éè", "’–", "üö", "ßñ", "кт", "αβ", "猫犬", "あい", "고양", "ḍṭ"]


@pytest.mark.parametrize("pair", PAIRS)
def test_two_letters_look_different_and_are_letters(pair: str) -> None:
    """With the packaged fonts, which the server brings."""
    one, other = (drawn(f"Is it {letter} here?") for letter in pair)
    assert np.abs(one - other).max() > 40
    assert "\\u" not in "".join(part for _, part in runs(pair))


@pytest.mark.parametrize("pair", [*PAIRS, "😀🐈", "\ue000\ue001"])
def test_what_no_font_has_is_written_as_its_code(pair: str, bare: None) -> None:
    one, other = (drawn(f"Is it {letter} here?") for letter in pair)
    assert np.abs(one - other).max() > 40
    faces = {face for face, _ in runs(f"Is it {pair} here?")}
    assert faces == {Face()}


def test_codes(bare: None) -> None:
    assert runs("a猫") == [(Face(), "a\\u732b")] or runs("a猫") == [(Face(), "a"), (Face(), "\\u732b")]
    assert "".join(part for _, part in runs("😀")) == "\\U0001f600"


def test_plain_text_is_one_piece() -> None:
    assert runs("What animal is this?") == [(Face(), "What animal is this?")]
    assert runs("") == []


def test_accents_stay_with_their_letters() -> None:
    (piece,) = runs("e\u0301")
    assert piece[1] == "e\u0301"


def test_a_font_that_was_asked_for_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    packaged = fonts._packaged()
    if not packaged:
        pytest.skip("no font package")
    monkeypatch.setenv("CROSSLOOK_FONTS", os.pathsep.join(["/no/such/font.ttf", packaged[0].path]))
    fonts._asked.cache_clear()
    fonts._face_for.cache_clear()
    try:
        assert runs("cat") == [(Face(packaged[0].path), "cat")]
    finally:
        monkeypatch.delenv("CROSSLOOK_FONTS")
        fonts._asked.cache_clear()
        fonts._face_for.cache_clear()


def test_regular_weight() -> None:
    """Noto Sans CJK's file begins with its thinnest."""
    face = fonts._face_for("猫")
    assert face is not None
    font = face.at(40)
    assert isinstance(font, ImageFont.FreeTypeFont)
    if "VF" in face.path:
        thin = ImageFont.truetype(face.path, 40, face.index)
        assert sum(bytes(font.getmask("猫"))) > 1.5 * sum(bytes(thin.getmask("猫")))


def test_lines_break_between_words_and_in_chinese() -> None:
    lettering = Lettering(20)
    assert wrap("a short line", lettering, 500) == ["a short line"]
    lines = wrap("多少只猫在沙发上睡觉" * 6, lettering, 300, most=9)
    assert len(lines) > 3
    assert "".join(lines) == "多少只猫在沙发上睡觉" * 6
    assert all(lettering.length(line) <= 300 for line in lines)
    cut = wrap("word " * 200, lettering, 300)
    assert len(cut) == 3
    assert cut[-1].endswith("...")
    assert lettering.length(fit("w" * 500, lettering, 100)) <= 100
