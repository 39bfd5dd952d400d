"""JPEG. Its head is written anew for the decoder with the segments that it needs and nothing else, and what is behind
the image (a preview, a video) is left out. Format: ITU-T T.81, annex B."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

from PIL import Image, ImageChops

from crosslook.decoding.exif import orientation_of
from crosslook.decoding.limits import (
    MOST_PARTS,
    DamagedData,
    Decoded,
    ImageLimits,
    UnsupportedFormat,
    too_many,
)

MOST_SCANS = 64
"""libjpeg writes 10, or 18 for four channels; every scan is a pass over the whole image."""
MOST_TABLES = 256
"""Segments of the head that the decoder reads; encoders write some 10."""
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # restarts and stuffed bytes left out, as libjpeg does
_END = b"\xff\xd9"
_STEP = 1 << 19  # bytes
_VARIETIES = {0xC3: "a lossless", 0xC5: "a hierarchical", 0xC6: "a hierarchical", 0xC7: "a hierarchical",
              0xCB: "a lossless", 0xCD: "a hierarchical", 0xCE: "a hierarchical", 0xCF: "a hierarchical",
              0xF7: "a lossless (JPEG-LS)"}  # fmt: skip
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_PROGRESSIVE = (0xC2, 0xCA)
_TABLES = (0xC4, 0xCC, 0xDB, 0xDD)
# Data that might follow, and the same with every bit turned: one of the two differs from what is missing at once.
_FILLING = bytes((73 * n * n + 29 * n + 0xB5) % 254 + 1 for n in range(2048))
_FILLINGS = (_FILLING, bytes(255 - byte for byte in _FILLING))


@dataclass(slots=True)
class _Head:
    """What stands before the first scan, and where that begins. ``whole``: the decoder holds all of the image's
    coefficients, for it comes in several scans."""

    segments: list[bytes] = field(default_factory=list)
    exif: bytes = b""
    profile: dict[int, bytes] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    whole: bool = False
    scan: int = 0


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The image, decoded at 1/2, 1/4 or 1/8 where its shorter side stays at least ``side`` pixels."""
    head = _head(data)
    limits.check(*head.size, held=_held(head, side))
    tables = b"\xff\xd8" + b"".join(head.segments)
    end = _end_of_image(data, head.scan)
    if end is not None:
        image = _load(tables + data[head.scan : end], side)
    else:
        image = _without_end(tables + data[head.scan :].rstrip(b"\xff"), side)
    image.info.pop("exif", None)
    image.info["icc_profile"] = b"".join(head.profile[number] for number in sorted(head.profile)) or None
    return Decoded(image, *head.size, orientation_of(head.exif))


def _head(data: bytes) -> _Head:
    head, at = _Head(), 2
    for _ in range(MOST_PARTS):
        found = _next_marker(data, at)
        if found is None or found[0] == _END:
            raise DamagedData("The image is truncated or damaged.")
        marker, start = data[found.end() - 1], found.start()
        if marker == 0xDA:
            if head.size == (0, 0):
                raise DamagedData("The image is damaged: its header is unreadable.")
            head.scan = start
            head.whole |= data[found.end() + 2 : found.end() + 3] != bytes([head.channels])
            return head
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
        _keep(head, marker, data[start:at])
        if len(head.segments) > MOST_TABLES:
            raise too_many("tables", MOST_TABLES)
    raise too_many("segments")


def _keep(head: _Head, marker: int, segment: bytes) -> None:
    body = segment[4:]
    if marker in _VARIETIES:
        raise UnsupportedFormat(f"The image is {_VARIETIES[marker]} JPEG; baseline and progressive ones are supported.")
    if marker in _FRAMES:
        if len(body) < 6:
            raise DamagedData("The image is damaged: its header is unreadable.")
        if body[0] != 8:
            message = f"The image is a JPEG of {body[0]} bits a sample; those of 8 are supported."
            raise UnsupportedFormat(message)
        if body[5] not in (1, 3, 4):
            message = f"The image is a JPEG of {body[5]} channels; those of 1, 3 and 4 are supported."
            raise UnsupportedFormat(message)
        head.size, head.channels = (int.from_bytes(body[3:5]), int.from_bytes(body[1:3])), body[5]
        head.whole = marker in _PROGRESSIVE
    if marker in (*_FRAMES, *_TABLES) or (marker == 0xE0 and body[:4] == b"JFIF") or body[:5] == b"Adobe":
        head.segments.append(segment)
    elif marker == 0xE1 and body[:6] == b"Exif\0\0" and not head.exif:
        head.exif = body
    elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0" and len(body) > 14:
        head.profile.setdefault(body[12], body[14:])  # 255 parts at most


def _held(head: _Head, side: int | None) -> int:
    """Pixels in memory: those of the decoder's own scaling, unless it holds the whole."""
    width, height = head.size
    if head.whole or side is None:
        return width * height
    scale = next((scale for scale in (8, 4, 2) if min(width, height) >= scale * side), 1)
    return width * height // scale**2


def _end_of_image(data: bytes, at: int) -> int | None:
    """Behind the marker of the end, None where there is none. Raises `TooLarge` for more scans than encoders
    write: 500 of 75 bytes each would keep a thread busy for seconds."""
    scans = 0
    for _ in range(MOST_PARTS):
        found = _next_marker(data, at)
        if found is None:
            return None
        if found[0] == _END:
            return found.end()
        scans += found[0] == b"\xff\xda"
        if scans > MOST_SCANS:
            raise too_many("scans", MOST_SCANS)
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    raise too_many("segments")


def _next_marker(data: bytes, at: int) -> re.Match[bytes] | None:
    """In steps of some milliseconds, between which other threads get their turn."""
    for start in range(at, len(data), _STEP):
        found = _MARKER.search(data, start, start + _STEP + 1)
        if found is not None:
            return found
    return None


def _load(data: bytes, side: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    if side is not None:
        image.draft(None, (side, side))
    image.load()
    return image


def _without_end(data: bytes, side: int | None) -> Image.Image:
    """An image without its end marker: whole, if more data before the end would change nothing. (The decoder fills what
    is missing with grey, and does not tell.)"""
    image = _load(data + _END, side)
    for filling in _FILLINGS:
        if ImageChops.difference(image, _load(data + filling + _END, side)).getbbox() is not None:
            raise DamagedData("The image is truncated.")
    return image
