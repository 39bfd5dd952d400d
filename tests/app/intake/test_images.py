"""An image given by value: what is checked before it is decoded, and where its grid lies in the original."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.engine.decoders import Later
from app.errors import RequestError
from app.intake.decode import ImageLimits, RenderedImage, use_image
from app.intake.images import from_bytes, in_original, loader
from model.interface import Geometry, Pixels, Region
from tests.app.conftest import encoded

LIMITS = ImageLimits(file_bytes=100_000, pixels=50_000_000, side=16_384, min_side=8)


class Halves:
    """A preprocessing whose grid covers the left half of what it is given, and that keeps the image's size."""

    def __init__(self, size: object = None) -> None:
        if size is not None:
            self.size = size

    def __call__(self, image: Image.Image) -> Pixels:
        self.given = image.size
        region = Region(0.0, 0.0, image.width / 2, float(image.height))
        return Pixels(np.asarray(image.resize((2, 2))), Geometry(image.width, image.height, 2, 2, region))


def test_what_is_refused_before_it_is_decoded() -> None:
    """By the field that it came in; one byte less is left to the decoder."""
    for data, code in ((b"", "image_broken"), (bytes(100_001), "image_too_large")):
        with pytest.raises(RequestError) as caught:
            from_bytes(data, LIMITS, param="messages[0]")
        assert (caught.value.code, caught.value.param) == (code, "messages[0]")
    assert from_bytes(bytes(100_000), LIMITS).param == "image"


def test_the_same_bytes_are_the_same_image() -> None:
    """Whatever field they came in; whose they are is kept apart from what they are."""
    one, same = from_bytes(b"a", LIMITS, scope="ann", param="image"), from_bytes(b"a", LIMITS, scope="bob", param="x")
    assert one.content == same.content != from_bytes(b"b", LIMITS).content
    assert (one.scope, one.param, same.scope, same.param) == ("ann", "image", "bob", "x")


def test_an_error_of_decoding_names_no_field() -> None:
    """Requests with different fields share it."""
    source = from_bytes(encoded(Image.new("RGB", (40, 30)))[:40], LIMITS, param="inputs")
    assert source.load is not None
    with pytest.raises(RequestError) as caught:
        source.load(Halves())
    assert (caught.value.code, caught.value.param) == ("image_broken", None)


@pytest.mark.parametrize(
    ("size", "given"),
    [(100, (300, 200)), (101, (600, 400)), (401, (2400, 1600)), (None, (2400, 1600)), ((100, 100), (2400, 1600))],
)
def test_a_large_jpeg_is_decoded_at_twice_what_the_model_reads(size: object, given: tuple[int, int]) -> None:
    """Never less; without a plain number for a size, at 1024 or more. The grid is told in pixels of the original."""
    preprocess = Halves(size)
    pixels = loader(encoded(Image.new("RGB", (2400, 1600), "red"), "JPEG"), LIMITS)(preprocess)
    assert preprocess.given == given
    assert pixels.geometry == Geometry(2400, 1600, 2, 2, Region(0.0, 0.0, 1200.0, 1600.0))


def test_each_axis_has_its_own_scale() -> None:
    """A side that does not divide is rounded up by the decoder. What else the geometry says stays."""
    cells = (0, 1, -1, 3)
    small = Geometry(101, 50, 2, 2, Region(-10.1, 5.0, 50.5, 60.0), cells)
    assert in_original(small, 202, 200) == Geometry(202, 200, 2, 2, Region(-20.2, 20.0, 101.0, 240.0), cells)
    assert in_original(small, 101, 50) is small


def test_a_large_image_is_loaded_later() -> None:
    """One that holds more than a quarter of the pixels allowed: then as any other, and with the same errors."""
    data = encoded(Image.new("RGB", (50, 20), "red"))
    limits = ImageLimits(100_000, 4000, 1000, 8)
    at_once = loader(data, limits)(Halves())
    with pytest.raises(Later) as caught:
        loader(data, ImageLimits(100_000, 3999, 1000, 8))(Halves())
    later = caught.value.load()
    assert later.geometry == at_once.geometry
    assert np.array_equal(later.values, at_once.values)
    with pytest.raises(Later) as caught:
        loader(data[:-30], ImageLimits(100_000, 3999, 1000, 8))(Halves())
    with pytest.raises(RequestError) as broken:
        caught.value.load()
    assert (broken.value.code, broken.value.param) == ("image_broken", None)


def test_errors_come_at_once_where_an_image_is_used() -> None:
    """What is refused by its header waits for nothing; what ``use`` raises is not taken for a large image."""
    data = encoded(Image.new("RGB", (50, 20)))
    with pytest.raises(RequestError) as caught:
        use_image(data, ImageLimits(100_000, 900, 1000, 8), lambda image: image.width, param="x", later=_never)
    assert (caught.value.code, caught.value.param) == ("image_too_large", "x")

    def use(image: RenderedImage) -> int:
        raise KeyError(image.width)

    with pytest.raises(KeyError, match="50"):
        use_image(data, LIMITS, use, later=_never)
    assert use_image(data, ImageLimits(100_000, 1000, 1000, 8), lambda image: image.width) == 50


def _never(work: object) -> int:
    raise AssertionError
