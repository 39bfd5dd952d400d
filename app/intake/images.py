"""The image of a request, from whichever field it came in, as the engine takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.engine.decoders import Later
from app.engine.engine import ImageSource
from app.errors import RequestError
from app.intake import decode
from app.intake.decode import ImageLimits, RenderedImage
from model.interface import Geometry, Pixels, Preprocess, Region

_DECODE_SIDE = 1024  # for a preprocessing that does not tell its size


def from_bytes(data: bytes, limits: ImageLimits, *, scope: str = "", param: str = "image") -> ImageSource:
    """An image given by value. It is decoded only where the engine does not know it.

    Raises: `RequestError` ``image_broken`` for no bytes, ``image_too_large``.
    """
    if not data:
        raise RequestError("image_broken", "The image is empty.", param=param)
    decode.check_bytes(len(data), limits, param=param)
    return ImageSource(decode.digest(data), loader(data, limits), scope=scope, param=param)


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
