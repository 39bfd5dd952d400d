"""Untrusted bytes to a verified image. Everything that a client sends as an image passes here.

`open_image` makes bytes a fully decoded, upright RGB image; text becomes bytes in `app.intake.inline`. Sizes, and
whatever else makes a small file costly, are checked before anything is decoded. Formats: JPEG, PNG, WebP, GIF
(first frame), BMP, TIFF.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from app.errors import RequestError
from crosslook.images import deep_scale, is_deep

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")
_ORIENTATION_TAG = 0x0112
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # restarts and stuffed bytes left out, as libjpeg does
_MOST_SCANS = 64  # libjpeg writes 10, or 18 for four channels; every scan is a pass over the whole image
_MOST_PARTS = 1 << 17  # of a file: even an 8-plane TIFF of 16,384 rows, each its own strip, has no more
_TIFFS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # what Pillow takes for one; +: BigTIFF
_TIFF_OFFSETS = (273, 324)  # of strips, of tiles
_TIFF_TILE = (322, 323)  # width, length
_STRIP = 128  # rows
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be: bytes of its file, and pixels and sides as its header gives them."""

    file_bytes: int
    pixels: int
    side: int
    min_side: int


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """A decoded image, RGB and upright. ``width`` and ``height`` are the original's after rotation; ``image`` itself
    may be smaller where a large JPEG was decoded at a fraction of its size."""

    image: Image.Image
    width: int
    height: int


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
) -> VerifiedImage:
    """Decode an image completely.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter side stays at least ``side`` pixels (the
    decoder's own scaling, several times faster); None decodes at full size.

    Raises: `RequestError` ``unsupported_image``, ``image_broken``, ``image_too_large``, ``image_too_small``.
    """
    try:
        return _open(data, limits, side, param)
    except RequestError:
        raise
    except UnidentifiedImageError:
        if _looks_supported(data):
            raise RequestError("image_broken", "The image is damaged: its header is unreadable.", param=param) from None
        message = f"The bytes are no image of a supported format ({', '.join(FORMATS)})."
        raise RequestError("unsupported_image", message, param=param) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(limits, param, None) from None
    except MemoryError:
        raise RequestError("image_too_large", "The image does not fit in memory.", param=param) from None
    except Exception as error:  # Pillow's plugins raise anything at all on hostile bytes
        logger.info("image refused: %s", type(error).__name__)
        raise RequestError("image_broken", "The image is truncated or damaged.", param=param) from error


def _looks_supported(data: bytes) -> bool:
    return data.startswith(_MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _open(data: bytes, limits: ImageLimits, side: int | None, param: str | None) -> VerifiedImage:
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data, param)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data, param)
    elif data.startswith(_TIFFS):
        _check_tiff(data, limits, param)
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    width, height = image.size
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise _too_many_pixels(limits, param, (width, height))
    if min(width, height) < limits.min_side:
        message = f"The image is {width}x{height} pixels; both sides must have at least {limits.min_side}."
        detail: dict[str, object] = {"width": width, "height": height, "min_side": limits.min_side}
        raise RequestError("image_too_small", message, param=param, detail=detail)
    if side is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (side, side))
    image.load()
    orientation, kind = _orientation(image), image.format
    upright = to_rgb(image)
    del image  # before the next copy is made
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width, height = height, width
    if kind == "TIFF":  # Pillow turns these itself while loading
        width, height = upright.size
    return VerifiedImage(upright, width, height)


def _too_many_pixels(
    limits: ImageLimits, param: str | None, size: tuple[int, int] | None, *, of: str = "image"
) -> RequestError:
    message = f"The {of} has more than {limits.pixels} pixels or a side of more than {limits.side}."
    detail: dict[str, object] = {"max_pixels": limits.pixels, "max_side": limits.side}
    if size is not None:
        detail |= {"width": size[0], "height": size[1]}
    return RequestError("image_too_large", message, param=param, detail=detail)


def _check_jpeg(data: bytes, param: str | None) -> None:
    """Raise ``image_too_large`` for more scans than encoders write: 500 of 75 bytes each keep a decoder thread busy for
    seconds. To the end of the image only: what cameras append (a preview, a video) is not decoded.
    """
    scans, at = 0, 2
    for _ in range(_MOST_PARTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None or found[0] == b"\xff\xd9":
            return
        scans += found[0] == b"\xff\xda"
        if scans > _MOST_SCANS:
            raise _too_many("scans", _MOST_SCANS, param)
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    raise _too_many("segments", _MOST_PARTS, param)


def _check_gif(data: bytes, param: str | None) -> None:
    """Raise ``image_too_large`` for millions of blocks before the image: Pillow spends 80 bytes on each."""
    at, inside = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), False  # behind the header and its palette
    for _ in range(_MOST_PARTS):
        if inside:
            inside = data[at] > 0
            at += 1 + data[at]
        elif data[at] in b",;":
            return
        else:
            inside = data[at] == ord("!")
            at += 2 if inside else 1
    raise _too_many("blocks", _MOST_PARTS, param)


def _check_tiff(data: bytes, limits: ImageLimits, param: str | None) -> None:
    """Raise ``image_too_large`` for a tile beyond the limits of an image (libtiff allocates all of it, however small
    the image is) and for millions of strips or tiles. Pillow's list of tags would not do: it leaves out types that
    libtiff reads.
    """
    order, big = "<" if data[:2] == b"II" else ">", data[2:3] == b"+"
    (start,) = struct.unpack_from(order + ("8xQ" if big else "4xI"), data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    tile = [0, 0]
    for n in range(count):
        tag, kind, values, value = entry.unpack_from(data, start + (8 if big else 2) + n * entry.size)
        if tag in _TIFF_OFFSETS and values > _MOST_PARTS:
            raise _too_many("parts", _MOST_PARTS, param)
        if tag in _TIFF_TILE:
            if kind not in (3, 4):  # SHORT and LONG, as the format has it
                raise ValueError("the size of a tile has a wrong type")
            (length,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), value)
            tile[_TIFF_TILE.index(tag)] = max(length, tile[_TIFF_TILE.index(tag)])
    if tile[0] * tile[1] > limits.pixels or max(tile) > limits.side:
        raise _too_many_pixels(limits, param, (tile[0], tile[1]), of="tile of the image")


def _too_many(parts: str, most: int, param: str | None) -> RequestError:
    message = f"The image has more than {most} {parts}."
    return RequestError("image_too_large", message, param=param, detail={f"max_{parts}": most})


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata does not make the pixels wrong
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: alpha flattened on white, 16 and 32 bits scaled to 8.

    Raises: ValueError for a mode that has no RGB meaning.
    """
    if is_deep(image):
        return _deep_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    flat = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        layer = strip.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return flat


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    highest = max(float(_finite(strip).max(initial=0.0)) for _, strip in _strips(image))
    scale = deep_scale(image.mode, highest)
    flat = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        grey = np.clip(_finite(strip) * scale, 0.0, 255.0).round().astype(np.uint8)
        flat.paste(Image.fromarray(grey, "L").convert("RGB"), (0, top))
    return flat


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in pieces with their first rows: what is made on the way of a whole one would be several copies."""
    for top in range(0, image.height, _STRIP):
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))


def _finite(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=65535.0, neginf=0.0)
