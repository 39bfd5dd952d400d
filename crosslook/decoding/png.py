"""PNG. The file is written anew for Pillow with the chunks that hold pixels and nothing else: metadata may be as large,
as many or as damaged as they like, and cost nothing. Format: PNG 3rd edition (W3C 2025)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image, ImageChops

from crosslook.decoding.colour import MOST_BYTES as MOST_PROFILE
from crosslook.decoding.exif import orientation_of
from crosslook.decoding.limits import (
    MOST_PARTS,
    DamagedData,
    Decoded,
    ImageLimits,
    UnsupportedFormat,
    too_many,
)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of each colour type


@dataclass(slots=True)
class _Chunks:
    """Of each kind the first one's body; of the image data, all."""

    first: dict[bytes, bytes] = field(default_factory=dict)
    data: list[bytes] = field(default_factory=list)


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The still image of a PNG: of an animation, the one that stands for it where none is played.

    Raises `DamagedData` for an unreadable header.
    """
    del side  # no smaller sizes inside
    chunks = _chunks(data)
    header = chunks.first.get(b"IHDR", b"")
    if len(header) != 13 or header[8] not in _DEPTHS.get(header[9], ()):
        raise DamagedData("The image is damaged: its header is unreadable.")
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    limits.check(width, height)
    image = _load(chunks)
    clear = image.info.get("transparency")
    if colour == 2 and isinstance(clear, tuple):
        del image.info["transparency"]
        if depth == 16:
            image.putalpha(_not_clear(image, chunks, clear))
        elif max(clear) < 256:
            image.info["transparency"] = clear
    elif colour == 0 and isinstance(clear, int):
        if depth in (2, 4):  # Pillow spreads the pixels over 0 to 255, and not this
            image.info["transparency"] = clear * 255 // (2**depth - 1)
        if image.info["transparency"] > 255 and depth < 16:
            del image.info["transparency"]
    image.info["icc_profile"] = _profile(chunks.first.get(b"iCCP"))
    return Decoded(image, width, height, orientation_of(chunks.first.get(b"eXIf", b"")))


def _chunks(data: bytes) -> _Chunks:
    found = _Chunks()
    for kind, body, sound in _walk(data):
        if kind == b"CgBI":
            raise UnsupportedFormat(
                "The image is a PNG in Apple's own variety (CgBI), which is no PNG by the standard."
            )
        if not sound and kind in (b"IHDR", b"PLTE", b"IDAT"):
            raise DamagedData(f"The image is damaged: the checksum of its chunk {kind.decode()} is wrong.")
        if kind == b"IDAT":
            found.data.append(body)
        elif sound and not (kind == b"eXIf" and found.data):  # browsers read it in front of the pixels alone
            found.first.setdefault(kind, body)
    return found


def _walk(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, body and whether the checksum is right, to the end of the image or of the file. Of the pixels' last chunk
    there may be a part: whether that is enough turns out when it is inflated."""
    at = len(_SIGNATURE)
    for _ in range(MOST_PARTS):
        if len(data) < at + 8 or data[at + 4 : at + 8] == b"IEND":
            return
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"iCCP", b"eXIf", b"CgBI"):
            body, checksum = data[at + 8 : end], data[end : end + 4]
            cut = len(checksum) < 4 and kind == b"IDAT"
            yield kind, body, cut or checksum == zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)
        at = end + 4
    raise too_many("chunks")


def _load(chunks: _Chunks, rawmode: str | None = None) -> Image.Image:
    """The pixels. ``rawmode`` has Pillow take them for another arrangement of the same size."""
    kept = [(kind, chunks.first[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in chunks.first]
    parts = [_SIGNATURE]
    for kind, body in (*kept, (b"IDAT", b"".join(chunks.data)), (b"IEND", b"")):
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += (len(body).to_bytes(4), kind, body, checksum.to_bytes(4))
    image = Image.open(io.BytesIO(b"".join(parts)), formats=["PNG"])
    if rawmode is not None:
        image.tile = [tile._replace(args=rawmode) for tile in image.tile]
    image.load()
    return image


def _not_clear(image: Image.Image, chunks: _Chunks, clear: tuple[int, int, int]) -> Image.Image:
    """The alpha of 16-bit RGB with one transparent colour. Pillow keeps the upper bytes alone, so the lower ones are
    read as if they were the upper ones of the other order."""
    low = _load(chunks, "RGB;16L")
    same: Image.Image | None = None
    for upper, lower, value in zip(image.split(), low.split(), clear, strict=True):
        for band, byte in ((upper, value >> 8), (lower, value & 255)):
            equal = band.point([255 * (level == byte) for level in range(256)])
            same = equal if same is None else ImageChops.darker(same, equal)
    assert same is not None  # noqa: S101 # three bands
    return ImageChops.invert(same)


def _profile(chunk: bytes | None) -> bytes | None:
    """The ICC profile: a name, a zero, the method 0, and the profile deflated."""
    name, _, rest = (chunk or b"").partition(b"\0")
    if not name or rest[:1] != b"\0":
        return None
    try:
        inflate = zlib.decompressobj()
        profile = inflate.decompress(rest[1:], MOST_PROFILE + 1)
    except zlib.error:
        return None
    return profile if inflate.eof else None
