"""What the classes between the service and a model do beyond holding their fields."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np

from model.interface import (
    Geometry,
    ItemError,
    LaterTexts,
    Map,
    Output,
    Pixels,
    Ranked,
    Region,
    TextOutput,
    among,
    together,
)


def image(width: int) -> Pixels:
    """An image of zeros, told from others by its width."""
    region = Region(0.0, 0.0, float(width), 8.0)
    return Pixels(np.zeros((8, width, 3), np.uint8), Geometry(width, 8, 2, 2, region))


def test_a_map_goes_to_another_process_in_float32() -> None:
    """With the grids of further images."""
    values = np.random.default_rng(0).random((3, 4))
    sent = Map(values[:, ::2].astype(np.float32), 0.25, (values.astype(np.float32),))
    arrived = pickle.loads(pickle.dumps(sent))  # noqa: S301
    assert arrived.elsewhere == 0.25
    assert arrived.values.dtype == arrived.others[0].dtype == np.float32
    np.testing.assert_array_equal(arrived.values, sent.values)
    np.testing.assert_array_equal(arrived.others[0], sent.others[0])


made: list[str] = []


def make(answer: str) -> TextOutput:
    made.append(answer)
    return TextOutput((Ranked(answer, 1.0),), "vocabulary", 0.0)


def test_texts_are_made_once_by_who_looks_at_them() -> None:
    """Those of a part of a batch, in the process that unpickles them."""
    made.clear()
    sent = pickle.dumps(Output(LaterTexts([partial(make, answer) for answer in ("a", "b", "c")])[1:]))
    assert made == []
    arrived = pickle.loads(sent)  # noqa: S301
    assert made == ["b", "c"]
    assert isinstance(arrived.texts, tuple)
    assert [text.ranking[0].answer for text in arrived.texts] == ["b", "c"]
    made.clear()
    here = LaterTexts([partial(make, answer) for answer in ("a", "b")])
    assert len(here) == 2
    assert made == []
    assert [here[-1].ranking[0].answer, *(text.ranking[0].answer for text in here)] == ["b", "a", "b"]
    assert made == ["a", "b"]


def test_an_error_goes_to_another_process_whole() -> None:
    sent = ItemError("question_too_long", "Too long.", 2, {"tokens": 99})
    arrived = pickle.loads(pickle.dumps(sent))  # noqa: S301
    assert (arrived.code, arrived.message, arrived.index, arrived.detail) == (
        "question_too_long",
        "Too long.",
        2,
        {"tokens": 99},
    )


def test_an_errors_index_moves_with_the_texts_in_front() -> None:
    """An error of the whole item has no index to move."""
    assert ItemError("question_empty", "Empty.", 1).moved(4).index == 5
    assert ItemError("task_not_supported", "No.").moved(4).index is None


def test_several_images_are_one_that_knows_the_others() -> None:
    first, second, third = image(4), image(5), image(6)
    whole = together([first, second, third])
    assert whole.values is first.values
    assert whole.others == (second, third)
    assert [geometry.width for geometry in (whole.geometry, *whole.geometry.others)] == [4, 5, 6]
    assert together([first]) == first


def test_a_preprocessing_may_have_a_way_of_its_own_for_several_images() -> None:
    """Where it has none, an image among others is made ready as any."""

    class Plain:
        def __call__(self, image: object) -> Pixels:
            raise NotImplementedError

    class Own(Plain):
        among = Plain()

    plain, own = Plain(), Own()
    assert among(plain) is plain
    assert among(own) is own.among
