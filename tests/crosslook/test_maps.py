from __future__ import annotations

import numpy as np
import pytest

from crosslook.results import Answer, read_answers
from crosslook.types import AnswerResponse
from tests.crosslook.conftest import golden


def answers(name: str) -> list[Answer]:
    return read_answers(AnswerResponse.model_validate(golden(name)), "r1")


def test_an_answer_has_its_maps() -> None:
    answer = answers("answer_one")[0]
    assert str(answer) == answer.answer == "yes"
    assert (answer.request_id, answer.model.id, answer.image.id) == ("r1", "compact", "img_7Q")
    assert [ranked.answer for ranked in answer.ranking] == ["yes", "no"]
    assert [word.text for word in answer.words] == ["Is", "this", "a", "kitty-cat"]
    assert answer.map is not None
    assert answer.map.words == answer.words
    array = answer.map.array()
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, [[0.02, 0.04, 0.6], [0.08, 0.16, 0.05]], rtol=1e-6)
    assert array.sum() + answer.map.elsewhere == pytest.approx(1.0)


def test_a_words_map_is_the_mean_of_its_tokens() -> None:
    answer = answers("answer_one")[0]
    maps = [token.map.values for token in answer.raw.question_tokens[4:7]]  # type: ignore[union-attr]
    word = answer.for_word("kitty-cat")
    np.testing.assert_allclose(word.array(), np.mean(maps, axis=0), rtol=1e-6)
    assert word.elsewhere == pytest.approx((0.1 + 0.0 + 0.05) / 3)
    assert answer.question[slice(*word.span)] == "kitty-cat"  # type: ignore[misc]


def test_words_are_found_by_occurrence_and_by_position() -> None:
    answer = answers("answer_several")[1]  # "这是 a 猫 cat cat?"
    first, second = answer.for_word("cat"), answer.for_word("CAT", 1)
    assert (first.span, second.span) == ((7, 10), (11, 14))
    assert first.values != second.values
    assert answer.for_word("cat", -1) == second
    assert answer.for_word(4) == second
    assert answer.for_word(-1) == second
    assert answer.for_word("猫").span == (5, 6)
    assert answer.map is not None
    assert answer.map.for_word("cat", 1) == second


@pytest.mark.parametrize(("word", "occurrence"), [("dog", 0), ("cat", 2), (5, 0), (-6, 0)])
def test_a_word_that_is_not_there_lists_those_that_are(word: str | int, occurrence: int) -> None:
    with pytest.raises(LookupError, match="'这是', 'a', '猫', 'cat', 'cat'"):
        answers("answer_several")[1].for_word(word, occurrence)


def test_a_generated_answer_has_the_words_of_its_answer() -> None:
    answer = answers("answer_several")[2]
    assert [word.text for word in answer.answer_words] == ["two", "cats"]
    assert answer.map is None
    assert answer.rest is None


def test_the_peak_is_in_pixels_of_the_original() -> None:
    answer = answers("answer_one")[0]
    # The region is 451 x 451 from (0, -75.5): the strongest cell is row 0, column 2.
    assert answer.map is not None
    assert answer.map.peak() == pytest.approx((451 / 3 * 2.5, -75.5 + 451 / 4, 0.6))
    # Row 1, column 1 of the second token, whose cell lies within the image as well.
    assert answer.for_word("this").peak() == pytest.approx((451 / 2, -75.5 + 451 * 0.75, 0.5))


def test_a_peak_in_the_padding_is_moved_to_the_edge() -> None:
    body = golden("answer_one")
    body["attention"]["region"] = {"left": -400.0, "top": -400.0, "right": 451.0, "bottom": 300.0}
    body["results"][0]["answer_map"] = {"values": [[0.9, 0.0, 0.0], [0.1, 0.0, 0.0]], "elsewhere": 0.0}
    answer = read_answers(AnswerResponse.model_validate(body), None)[0]
    assert answer.map is not None
    assert answer.map.peak()[:2] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("raw", ["60.0%", "0.1%"]),
        ("rollout", ["60.0%", "0.1%"]),
        ("gradient", ["0.6", "0.00123"]),
        ("similarity", ["0.6", "0.00123"]),
    ],
)
def test_only_shares_are_written_per_cent(kind: str, texts: list[str]) -> None:
    body = golden("answer_one")
    body["attention"]["kind"] = kind
    found = read_answers(AnswerResponse.model_validate(body), None)[0].map
    assert found is not None
    assert [found.format_value(value) for value in (0.6, 0.0012345)] == texts


def test_u8_maps_are_scaled() -> None:
    answer = answers("answer_u8")[0]
    assert answer.map is not None
    np.testing.assert_allclose(answer.map.array(), [[0.765, 0, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(answer.for_word("cat").array(), [[0, 0.102, 0.51], [0.02, 0.04, 0.06]], rtol=1e-6)


def test_without_maps_there_are_none() -> None:
    answer = answers("answer_none")[0]
    assert (answer.map, answer.words, answer.answer_words) == (None, (), ())
    with pytest.raises(LookupError, match="none"):
        answer.for_word(0)


@pytest.mark.parametrize("values", [[[0.5, 0.5]], [[0.1, 0.2], [0.3]], []])
def test_a_map_that_does_not_fit_its_grid_is_refused(values: list[list[float]]) -> None:
    body = golden("answer_one")
    body["results"][0]["answer_map"]["values"] = values
    with pytest.raises(ValueError, match="2 x 3"):
        read_answers(AnswerResponse.model_validate(body), None)


@pytest.mark.parametrize(
    ("kind", "share", "mostly"),
    [("raw", 0.6, True), ("rollout", 0.6, False), ("gradient", 0.75, True), ("similarity", 0.75, False)],
)
def test_how_much_of_a_map_is_off_the_image(kind: str, share: float, mostly: bool) -> None:
    """Shares are of 1; what has no unit is of its own sum."""
    body = golden("answer_one")
    body["attention"]["kind"] = kind
    body["results"][0]["answer_map"] = {"values": [[0.05, 0.0, 0.0], [0.0, 0.15, 0.0]], "elsewhere": 0.6}
    found = read_answers(AnswerResponse.model_validate(body), None)[0].map
    assert found is not None
    assert found.off_image == pytest.approx(share)
    assert found.mostly_off_image is mostly
    body["results"][0]["answer_map"] = {"values": [[0.0] * 3] * 2, "elsewhere": 0.0}
    nothing = read_answers(AnswerResponse.model_validate(body), None)[0].map
    assert nothing is not None
    assert not nothing.mostly_off_image
