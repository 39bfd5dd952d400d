"""GIF. Format: GIF89a (CompuServe 1990)."""

from __future__ import annotations

import io

from PIL import Image

from crosslook.decoding.limits import MOST_PARTS, Decoded, ImageLimits, too_many
from crosslook.decoding.rendering import frame_box, on_canvas


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The first frame on its canvas."""
    del side  # no smaller sizes inside
    _check_blocks(data)
    image: Image.Image = Image.open(io.BytesIO(data), formats=["GIF"])  # reads the header only
    size = image.size
    limits.check(*size)
    frame = frame_box(image)
    image.load()
    return Decoded(on_canvas(image, frame), *size)


def _check_blocks(data: bytes) -> None:
    """Raise `TooLarge` for millions of blocks before the image: Pillow spends 80 bytes on each."""
    at, inside = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), False  # behind the header and its palette
    for _ in range(MOST_PARTS):
        if inside:
            inside = data[at] > 0
            at += 1 + data[at]
        elif data[at] in b",;":
            return
        else:
            inside = data[at] == ord("!")
            at += 2 if inside else 1
    raise too_many("blocks")
