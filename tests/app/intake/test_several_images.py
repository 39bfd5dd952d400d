"""Several images as one: what is large among them is decoded later, and errors tell which image they are about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from app.engine.decoders import Later
from app.engine.engine import ImageSource
from app.errors import RequestError
from app.intake import decode
from app.intake.images import together
from model.interface import Geometry, Pixels, Preprocess, Region


def pixels(width: int) -> Pixels:
    return Pixels(np.zeros((2, 2, 3), np.uint8), Geometry(width, 10, 1, 1, Region(0.0, 0.0, float(width), 10.0)))


def source(width: int, load: Callable[[Preprocess], Pixels] | None = None) -> ImageSource:
    return ImageSource(bytes([width]), load or (lambda preprocess: pixels(width)))


def later(preprocess: Preprocess) -> Pixels:
    raise Later(lambda: pixels(99))


def broken(preprocess: Preprocess) -> Pixels:
    raise RequestError("image_broken", "The image is broken.")


def plain(image: Image.Image) -> Pixels:
    return pixels(image.width)


def widths(found: Pixels) -> list[int]:
    assert [one.width for one in found.geometry.others] == [one.geometry.width for one in found.others]
    return [found.geometry.width, *(one.width for one in found.geometry.others)]


def test_they_come_in_their_order() -> None:
    joined = together([source(1), source(2), source(3)], scope="me", param="images")
    assert joined.load is not None
    assert widths(joined.load(plain)) == [1, 2, 3]
    assert (joined.scope, joined.param) == ("me", "images")


def test_ids_tell_sets_and_orders_apart() -> None:
    contents = {together([source(i) for i in order]).content for order in ((1, 2), (2, 1), (1, 2, 3), (1,))}
    assert len(contents) == 4
    assert source(1).content not in contents


def test_no_bytes_have_the_id_of_several_images() -> None:
    """Else who sends the digests of two images as one would have others told that theirs are broken."""
    both = [source(1), source(2)]
    digests = b"".join(one.content for one in both)
    for data in (digests, b"images" + digests):
        assert together(both).content != decode.digest(data)


def test_what_is_large_among_them_is_decoded_where_large_ones_are() -> None:
    joined = together([source(1), source(99, later), source(3)])
    assert joined.load is not None
    with pytest.raises(Later) as told:
        joined.load(plain)
    assert widths(told.value.load()) == [1, 99, 3]


def test_an_error_tells_which_image_it_is_about() -> None:
    joined = together([source(1), source(2, broken)])
    assert joined.load is not None
    with pytest.raises(RequestError, match="Image 2 of 2: The image is broken") as told:
        joined.load(plain)
    assert (told.value.code, told.value.param) == ("image_broken", None)


def test_so_does_one_of_an_image_that_is_decoded_later() -> None:
    def broken_later(preprocess: Preprocess) -> Pixels:
        raise Later(lambda: broken(preprocess))

    joined = together([source(1), source(2), source(3, broken_later)])
    assert joined.load is not None
    with pytest.raises(Later) as told:
        joined.load(plain)
    with pytest.raises(RequestError, match="Image 3 of 3: The image is broken"):
        told.value.load()


def test_a_preprocessing_may_have_a_way_of_its_own_for_an_image_among_others() -> None:
    class Own:
        def __call__(self, image: Image.Image) -> Pixels:
            raise AssertionError("an image alone")

        @property
        def among(self) -> Preprocess:
            return plain

    def load(preprocess: Preprocess) -> Pixels:
        return preprocess(Image.new("RGB", (7, 10)))

    joined = together([source(7, load), source(7, load)])
    assert joined.load is not None
    assert widths(joined.load(Own())) == [7, 7]
