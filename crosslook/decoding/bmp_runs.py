"""The run-length codes of BMP: RLE8, RLE4 and OS/2's RLE24. Source: Microsoft, "Bitmap Compression"."""

from __future__ import annotations

from collections.abc import Iterator

from crosslook.decoding.limits import DamagedData, too_many
from crosslook.decoding.rendering import STRIP

MOST_RUNS = 1 << 20
"""Codes of an image, some 0.5 s; an image of 1,000 x 1,000 pixels of noise has 8,000 rows of pixels as they are."""


def unpack(data: bytes, at: int, width: int, height: int, bits: int) -> Iterator[tuple[int, bytearray, bytearray]]:
    """Strips of up to `STRIP` rows, in the order of the file's rows: the first row, the pixels, a byte each (24 bits:
    three), and 255 for each that was drawn. A strip in which nothing is drawn may be left out.

    Raises: `DamagedData` where the data end before the image; `TooLarge` for more than `MOST_RUNS` codes.
    """
    each = 3 if bits == 24 else 1
    x = y = top = 0
    end, pixels, drawn = 0, bytearray(), bytearray()  # no strip yet
    for _ in range(MOST_RUNS):
        if y >= end:
            if end:
                yield top, pixels, drawn
            if y >= height:
                return
            top = y - y % STRIP
            end = min(top + STRIP, height)
            pixels, drawn = bytearray((end - top) * width * each), bytearray((end - top) * width)
        if len(data) < at + 2:
            raise DamagedData("The image is truncated.")
        count, code = data[at], data[at + 1]
        at += 2
        if count:
            if bits == 24:
                run = data[at - 1 : at + 2] * count
                at += 2
            elif bits == 4:
                run = (bytes((code >> 4, code & 15)) * (count // 2 + 1))[:count]
            else:
                run = bytes((code,)) * count
        elif code == 0:  # the end of a row
            x, y = 0, y + 1
            continue
        elif code == 1:  # the end of the image
            yield top, pixels, drawn
            return
        elif code == 2:  # on by some columns and rows
            if len(data) < at + 2:
                raise DamagedData("The image is truncated.")
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        else:  # so many pixels as they are, to an even address
            size = code * 3 if bits == 24 else code if bits == 8 else (code + 1) // 2
            run = data[at : at + size]
            if len(run) < size:
                raise DamagedData("The image is truncated.")
            at += size + size % 2
            if bits == 4:
                run = bytes(nibble for byte in run for nibble in (byte >> 4, byte & 15))[:code]
        room = max(0, min(len(run) // each, width - x))
        start = (y - top) * width + x
        pixels[start * each : (start + room) * each] = run[: room * each]
        drawn[start : start + room] = b"\xff" * room
        x += room
    raise too_many("runs", MOST_RUNS)
