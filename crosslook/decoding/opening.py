"""Bytes of a file of any format to the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from crosslook.decoding import bmff, bmp, gif, jpeg, png, tiff, webp
from crosslook.decoding.kinds import FORMATS, describe, kind_of
from crosslook.decoding.limits import (
    UNLIMITED,
    DamagedData,
    Decoded,
    DecodingError,
    ImageLimits,
    TooLarge,
    UnsupportedFormat,
)
from crosslook.decoding.rendering import to_rgb, turned

_READERS: dict[str, Callable[[bytes, ImageLimits, int | None], Decoded]] = {
    "JPEG": jpeg.read,
    "PNG": png.read,
    "WebP": webp.read,
    "GIF": gif.read,
    "BMP": bmp.read,
    "TIFF": tiff.read,
    "AVIF": bmff.read_avif,
    "HEIC": bmff.read_heic,
}


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """A decoded image, RGB and upright. ``width`` and ``height`` are the original's after rotation; ``image`` itself
    may be smaller where a large JPEG was decoded at a fraction of its size."""

    image: Image.Image
    width: int
    height: int


def decode_image(data: bytes, limits: ImageLimits = UNLIMITED, *, side: int | None = None) -> RenderedImage:
    """Decode a file completely. Sizes, and whatever else makes a small file costly, are checked before.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter side stays at least ``side`` pixels (the
    decoder's own scaling, several times faster); None decodes at full size.

    Raises: `UnsupportedFormat`, `DamagedData`, `TooLarge`, `TooSmall`, all of them `DecodingError`.
    """
    kind = kind_of(data)
    if kind is None:
        raise UnsupportedFormat(f"The file is {describe(data)}; supported images are {', '.join(FORMATS)}.")
    try:
        decoded = _READERS[kind](data, limits, side)
        image = turned(to_rgb(decoded.image), decoded.orientation)
    except DecodingError:
        raise
    except ImportError:
        message = "The image is HEIC, which needs the package pi-heif where it is opened."
        raise UnsupportedFormat(message) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        message = f"The image has more than {Image.MAX_IMAGE_PIXELS} pixels."
        raise TooLarge(message, max_pixels=Image.MAX_IMAGE_PIXELS) from None
    except MemoryError:
        raise TooLarge("The image does not fit in memory.") from None
    except Exception as error:  # Pillow's plugins raise anything at all on hostile bytes
        raise DamagedData("The image is truncated or damaged.") from error
    image.info.clear()  # or it would be written into what is saved of it
    width, height = decoded.width, decoded.height
    return RenderedImage(image, *((height, width) if decoded.orientation >= 5 else (width, height)))
