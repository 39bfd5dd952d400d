"""The embedded model on Chinese questions about the examples."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.compact.chinese import VOCABULARY, WEIGHTS
from model.compact.model import EMBEDDED, CompactModel, load
from model.interface import MapRequest
from tests.app.servers import ROOT
from tests.model.tools import ask, encode

QUESTION = "这只猫是什么颜色？"
CAT = (30, 0, 365, 300)  # left, top, right, bottom of the cat in examples/cat.jpg, in its pixels


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return load(dtype="float32")


def example(name: str) -> Image.Image:
    return Image.open(ROOT / "examples" / f"{name}.jpg").convert("RGB")


def word_map(model: CompactModel, image: Image.Image, question: str, word: str, kind: str) -> np.ndarray:
    """The map ``[rows, columns]`` of a word of the question."""
    (encoded,) = encode(model, image)
    (found,) = ask(model, encoded, question, maps=MapRequest(kind))  # type: ignore[arg-type]
    (own,) = (one for one in found.words if one.text == word)
    maps = [found.tokens[token].map for token in own.tokens]
    return np.mean([one.values for one in maps if one is not None], axis=0)


@pytest.mark.parametrize("kind", ["raw", "gradient"])
def test_the_map_of_the_cat_lies_on_the_cat(model: CompactModel, kind: str) -> None:
    image = example("cat")
    values = word_map(model, image, QUESTION, "猫", kind)
    row, column = np.unravel_index(values.argmax(), values.shape)
    x, y = (column + 0.5) / values.shape[1] * image.width, (row + 0.5) / values.shape[0] * image.height
    assert CAT[0] < x < CAT[2]
    assert CAT[1] < y < CAT[3]


@pytest.mark.parametrize("place", [0, 3])
def test_of_four_images_it_looks_at_the_one_with_the_cat(model: CompactModel, place: int) -> None:
    collage = Image.new("RGB", (400, 400))
    images = [example("coffee"), example("rocket"), example("coffee")]
    images.insert(place, example("cat"))
    for i, image in enumerate(images):
        collage.paste(image.resize((200, 200)), (i % 2 * 200, i // 2 * 200))
    values = word_map(model, collage, QUESTION, "猫", "raw")
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert 2 * (2 * row // values.shape[0]) + 2 * column // values.shape[1] == place


def test_it_answers_in_chinese(model: CompactModel) -> None:
    (encoded,) = encode(model, example("cat"))
    colour, there, english = ask(model, encoded, QUESTION, "照片里有冰淇淋吗？", "What animal is this?")
    assert (colour.ranking[0].answer, colour.ranking[0].english) == ("棕色", "brown")
    assert there.ranking[0].english == "no"
    assert (english.ranking[0].answer, english.ranking[0].english) == ("cat", None)


def test_the_files_are_small(model: CompactModel) -> None:
    assert model.info.languages == ("en", "zh")
    assert sum((EMBEDDED / name).stat().st_size for name in (WEIGHTS, VOCABULARY)) < 8e6
