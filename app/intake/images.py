"""The image of a request, from whichever field it came in, as the engine takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from app.engine.decoders import Later
from app.engine.engine import ImageSource
from app.errors import RequestError
from app.intake import decode
from app.intake.decode import ImageLimits, RenderedImage
from model.interface import Geometry, Pixels, Preprocess, Region, among
from model.interface import together as join

_DECODE_SIDE = 1024  # for a preprocessing that does not tell its size


def from_bytes(data: bytes, limits: ImageLimits, *, scope: str = "", param: str = "image") -> ImageSource:
    """An image given by value. It is decoded only where the engine does not know it.

    Raises: `RequestError` ``image_broken`` for no bytes, ``image_too_large``.
    """
    if not data:
        raise RequestError("image_broken", "The image is empty.", param=param)
    decode.check_bytes(len(data), limits, param=param)
    return ImageSource(decode.digest(data), loader(data, limits), scope=scope, param=param)


def together(sources: Sequence[ImageSource], *, scope: str = "", param: str = "images") -> ImageSource:
    """Several images, given by value, that questions are about together: one to the engine, which keeps it by an id of
    its own."""
    loads = [source.load for source in sources if source.load is not None]

    def load(preprocess: Preprocess) -> Pixels:
        each = among(preprocess)
        made: list[Pixels | Later] = []
        for number, one in enumerate(loads, 1):
            try:
                with _numbered(number, len(loads)):
                    made.append(one(each))
            except Later as later:
                made.append(later)
        if any(isinstance(one, Later) for one in made):
            raise Later(lambda: finished(made))
        return finished(made)

    def finished(made: Sequence[Pixels | Later]) -> Pixels:
        whole = []
        for number, one in enumerate(made, 1):
            with _numbered(number, len(made)):
                whole.append(one.load() if isinstance(one, Later) else one)
        return join(whole)

    # Another hash than that of a single image's bytes, which might be these very digests.
    content = hashlib.blake2s(b"".join(source.content for source in sources), person=b"images").digest()
    return ImageSource(content, load, scope=scope, param=param)


@contextmanager
def _numbered(number: int, count: int) -> Iterator[None]:
    """A context in which errors tell which of several images they are about."""
    try:
        yield
    except RequestError as error:
        message = f"Image {number} of {count}: {error.message}"
        raise RequestError(error.code, message, detail=error.detail) from error


def loader(data: bytes, limits: ImageLimits) -> Callable[[Preprocess], Pixels]:
    """Decode, verify and preprocess: the work of a decoder thread. Its errors name no field (see `image_at`): requests
    that send the same bytes in different fields share them. For a large image it raises `Later`."""

    def load(preprocess: Preprocess) -> Pixels:
        size = getattr(preprocess, "size", None)
        side = 2 * size if isinstance(size, int) else _DECODE_SIDE  # the model's own resize does the rest

        def use(image: RenderedImage) -> Pixels:
            pixels = preprocess(image.image)
            return replace(pixels, geometry=in_original(pixels.geometry, image.width, image.height))

        return decode.use_image(data, limits, use, side=side, param=None, later=_later)

    return load


def _later(load: Callable[[], Pixels]) -> Pixels:
    raise Later(load)


def in_original(geometry: Geometry, width: int, height: int) -> Geometry:
    """The geometry of an image that was decoded at a fraction of its size, in pixels of the original."""
    if (geometry.width, geometry.height) == (width, height):
        return geometry
    x, y = width / geometry.width, height / geometry.height
    region = geometry.region
    scaled = Region(region.left * x, region.top * y, region.right * x, region.bottom * y)
    return replace(geometry, width=width, height=height, region=scaled)
