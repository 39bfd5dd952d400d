"""AVIF and HEIC. Format: ISO/IEC 14496-12 (boxes) and 23008-12 (HEIF)."""

from __future__ import annotations

import io
import re
from importlib import import_module

from PIL import AvifImagePlugin

from crosslook.decoding.exif import orientation_of
from crosslook.decoding.limits import HALF, MOST_PARTS, DamagedData, Decoded, ImageLimits, TooLarge

MOST_HEADER = 1 << 18
"""Bytes of the boxes that describe the image: telephones write 10 kB for 200 tiles; the time to read them grows with
the square of their number."""
# Descriptions of an item of EXIF: Pillow would copy all of its tags, and the container's own turns are what counts.
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


def read_avif(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The still image, or the first frame of a sequence."""
    del side  # no smaller sizes inside
    image = AvifImagePlugin.AvifImageFile(io.BytesIO(checked(data)))
    size = image.size
    limits.check(*size, share=HALF)
    image.load()
    return Decoded(image, *size, orientation_of(image.info.get("exif") or b""))


def read_heic(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The primary image, which libheif turns itself."""
    del side  # no smaller sizes inside
    heif = import_module("pi_heif")  # by name: it has no types, which a user's own type check would stumble on
    image = heif.HeifImageFile(io.BytesIO(checked(data)))
    limits.check(*image.size, share=HALF)
    image.load()
    return Decoded(image, *image.size)


def checked(data: bytes) -> bytes:
    """The file without its EXIF. Raises `DamagedData` for boxes that cannot be, `TooLarge` for those that describe too
    much."""
    at, described = 0, 0
    for _ in range(MOST_PARTS):
        if len(data) < at + 8:
            break
        size, kind, head = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            raise DamagedData("The image is damaged: its header is unreadable.")
        if kind in (b"ftyp", b"meta", b"moov"):
            described += size
        at += size
    if described > MOST_HEADER:
        raise TooLarge(f"The image has more than {MOST_HEADER} bytes of description.", max_header=MOST_HEADER)
    return _EXIF_ITEM.sub(rb"\1none", data)
