"""WebP. The file is written anew for libwebp with the first frame alone. Format: RFC 9649."""

from __future__ import annotations

import io
import struct

from PIL import Image

from crosslook.decoding.limits import HALF, MOST_PARTS, DamagedData, Decoded, ImageLimits, too_many

_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X
_PIXELS = (b"ANMF", b"ALPH", b"VP8 ", b"VP8L")


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The first frame on its canvas. EXIF turns no WebP: no browser goes by it.

    Raises `DamagedData` for an unreadable header.
    """
    del side  # no smaller sizes inside
    chunks = _chunks(data)
    extended = chunks.get(b"VP8X")
    if extended is not None and len(extended) < 10:
        raise DamagedData("The image is damaged: its header is unreadable.")
    if extended is None:
        size = _bitstream_size(chunks)
        kept = [b"VP8 ", b"VP8L"]
    else:
        size = (int.from_bytes(extended[4:7], "little") + 1, int.from_bytes(extended[7:10], "little") + 1)
        kept = [b"ANIM", b"ANMF"] if extended[0] & _ANIMATION else [b"ALPH", b"VP8 ", b"VP8L"]
    limits.check(*size, share=HALF)
    body = b""
    if extended is not None:
        # A frame need not cover its canvas, whatever the flag says.
        flags = _ANIMATION | _ALPHA if extended[0] & _ANIMATION else extended[0] & _ALPHA
        body = _chunk(b"VP8X", bytes([flags]) + extended[1:10])
    body += b"".join(_chunk(kind, chunks[kind]) for kind in kept if kind in chunks)
    image = Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body), formats=["WEBP"])
    image.load()
    image.__dict__.pop("_decoder", None)  # it holds two canvases more
    image.info["icc_profile"] = chunks.get(b"ICCP")
    return Decoded(image, *size)


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each kind."""
    found: dict[bytes, bytes] = {}
    at = 12
    for _ in range(MOST_PARTS):
        if len(data) < at + 8:
            return found
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind not in found:
            found[kind] = data[at + 8 : at + 8 + length]
            if len(found[kind]) < length and kind in _PIXELS:
                raise DamagedData("The image is truncated.")
        at += 8 + length + length % 2
    raise too_many("chunks")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _bitstream_size(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    lossy, lossless = chunks.get(b"VP8 ", b""), chunks.get(b"VP8L", b"")
    if lossy[3:6] == b"\x9d\x01\x2a" and len(lossy) >= 10:
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF
    if lossless[:1] == b"\x2f" and len(lossless) >= 5:
        (bits,) = struct.unpack_from("<I", lossless, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise DamagedData("The image is damaged: its header is unreadable.")
