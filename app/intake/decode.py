"""Untrusted bytes to a verified image. Everything that a client sends as an image passes here.

`open_image` makes bytes a fully decoded, upright RGB image, by `crosslook.decoding`, which the client has too; text
becomes bytes in `app.intake.inline`. Images that take much memory are decoded few at once: see `use_image`.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from PIL import Image

from app.engine.decoders import large_places
from app.errors import RequestError
from app.intake.apart import KINDS, open_apart
from crosslook.decoding import (
    DecodingError,
    ImageLimits,
    Large,
    RenderedImage,
    TooLarge,
    TooSmall,
    UnsupportedFormat,
    decode_image,
)
from crosslook.decoding.kinds import kind_of

__all__ = [
    "ImageLimits",
    "RenderedImage",
    "check_bytes",
    "configure",
    "digest",
    "open_image",
    "too_many_bytes",
    "use_image",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGE_SHARE = 4
"""An image is large that holds more than this part of the pixels allowed: 12.5 million by default, a telephone's
photograph not among them."""

_CODES: tuple[tuple[type[DecodingError], str], ...] = (
    (UnsupportedFormat, "unsupported_image"),
    (TooLarge, "image_too_large"),
    (TooSmall, "image_too_small"),
)


def configure(limits: ImageLimits) -> None:
    """Set Pillow's own guard (a process-wide value) to ours; it catches what allocates before we can look."""
    Image.init()  # its modules now, not with the first image: by then there may be no descriptors left
    Image.MAX_IMAGE_PIXELS = limits.pixels
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # damaged metadata, printed to stderr


def digest(data: bytes) -> bytes:
    """The content hash that tells images apart."""
    return hashlib.sha256(data).digest()


def check_bytes(size: int, limits: ImageLimits, *, param: str | None = "image") -> None:
    """Raise ``image_too_large`` for a file of more bytes than allowed."""
    if size > limits.file_bytes:
        raise too_many_bytes(limits, param)


def too_many_bytes(limits: ImageLimits, param: str | None) -> RequestError:
    """The error for a file of too many bytes."""
    message = f"The image has more than {limits.file_bytes} bytes."
    return RequestError("image_too_large", message, param=param, detail={"max_bytes": limits.file_bytes})


def open_image(
    data: bytes, limits: ImageLimits, *, side: int | None = None, param: str | None = "image"
) -> RenderedImage:
    """Decode an image completely, as `crosslook.decoding.decode_image` does.

    Raises: `RequestError` ``unsupported_image``, ``image_broken``, ``image_too_large``, ``image_too_small``; `Large`
    where the limits have it.
    """
    try:
        return open_apart(data, limits) if kind_of(data) in KINDS else decode_image(data, limits, side=side)
    except Large:
        raise
    except DecodingError as error:
        if error.__cause__ is not None:
            logger.info("image refused: %s", type(error.__cause__).__name__)
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "image_broken")
        raise RequestError(code, str(error), param=param, detail=error.detail or None) from error.__cause__


def use_image(
    data: bytes,
    limits: ImageLimits,
    use: Callable[[RenderedImage], T],
    *,
    side: int | None = None,
    param: str | None = "image",
    later: Callable[[Callable[[], T]], T] = lambda work: work(),
) -> T:
    """What ``use`` makes of the decoded image, which it must not keep. The work for a large image waits for one of
    `large_places`; ``later`` is given that work.

    Raises: as `open_image`, and what ``use`` and ``later`` raise.
    """

    def large() -> T:
        with large_places:
            return use(open_image(data, limits, side=side, param=param))

    try:
        opened = open_image(data, replace(limits, large=limits.pixels // LARGE_SHARE), side=side, param=param)
    except Large:
        pass
    else:
        return use(opened)
    return later(large)
