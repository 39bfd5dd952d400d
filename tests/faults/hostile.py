"""Broken and hostile images, made from a seed: mutated headers, truncations, bombs, polyglots, odd modes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.app.conftest import encoded

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "P", "1", "F", "I;16"),
}


@dataclass(frozen=True)
class Case:
    """One upload. ``broken`` says that no server may answer it; the others may turn out readable."""

    name: str
    data: bytes
    broken: bool = False


def seeds() -> dict[str, bytes]:
    """A sound file of every format and mode, with every compression that matters."""
    noise = np.random.default_rng(1).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    base = Image.fromarray(noise)
    files = {}
    for kind, modes in _MODES.items():
        for mode in modes:
            image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else base.convert(mode)
            files[f"{kind}-{mode}"] = encoded(image, kind)
    files["JPEG-progressive"] = encoded(base, "JPEG", progressive=True)
    files["PNG-text"] = encoded(base, "PNG", pnginfo=_text())
    files["WEBP-lossless"] = encoded(base, "WEBP", lossless=True)
    files["GIF-animated"] = encoded(base, "GIF", save_all=True, append_images=[base.rotate(90)])
    files["WEBP-animated"] = encoded(base, "WEBP", save_all=True, append_images=[base.rotate(90)])
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = base.convert("1") if compression == "group4" else base
        files[f"TIFF-{compression}"] = encoded(image, "TIFF", compression=compression)
    return files


def _text() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "x" * 100, zip=True)
    return info


def cases(seed: int = 0, *, mutations: int = 40) -> Iterator[Case]:
    """All cases; ``mutations`` a sound file."""
    rng = random.Random(seed)
    yield from bombs()
    files = seeds()
    yield from polyglots(files)
    for name, data in files.items():
        for percent in range(0, 100, 5):
            cut = data[: len(data) * percent // 100]
            yield Case(f"{name} cut at {percent}%", cut, broken=percent <= 5)
        for n in range(mutations):
            head = n % 2 == 0
            yield Case(f"{name} mutation {n}", mutated(data, rng, 64 if head else len(data)))


def mutated(data: bytes, rng: random.Random, within: int) -> bytes:
    """A few bytes among the first ``within`` changed, swapped for extremes, inserted, removed or repeated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(within, len(out)))
        action = rng.randrange(5)
        if action == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif action == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif action == 3:
            del out[at : at + rng.randint(1, 8)]
        else:
            out[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x80\0\0\0")
            )
        if not out:
            return b"\0"
    return bytes(out)


def png(width: int, height: int, body: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG whose parts are given."""
    header = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), extra, _chunk(b"IDAT", body), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def tiff_of_one_tile(width: int, length: int) -> bytes:
    """A grey TIFF of 64 x 64 pixels whose one tile is of another size; its pixels are a few zeros, deflated."""
    pixels = zlib.compress(bytes(10_000_000), 9)
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: length, 324: 0, 325: len(pixels)}
    tags[324] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def bombs() -> Iterator[Case]:
    """Small files that claim to be, or become, huge."""
    zeros = zlib.compress(bytes(10_000_000), 9)
    for width, height in ((50_000, 50_000), (16_000, 16_000), (2**31 - 1, 2**31 - 1), (65_535, 1), (9, 2**30)):
        yield Case(f"png claims {width}x{height}", png(width, height, zeros), broken=True)
    yield Case("png of zeros beyond its size", png(64, 64, zeros))
    yield Case(
        "png text bomb", png(64, 64, b"", extra=_chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(10**8), 9))), broken=True
    )
    yield Case(
        "png profile bomb",
        png(64, 64, b"", extra=_chunk(b"iCCP", b"c\0\0" + zlib.compress(bytes(10**8), 9))),
        broken=True,
    )
    gif = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield Case("gif claims 65535x65535", bytes(gif), broken=True)
    bmp = bytearray(encoded(Image.new("RGB", (16, 16)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**30, -(2**30))
    yield Case("bmp claims 2^30 square", bytes(bmp), broken=True)
    jpeg = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    yield Case("jpeg claims 65535x65535", bytes(jpeg), broken=True)
    progressive = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield Case("jpeg of 500 scans", progressive[:-2] + scan * 500 + progressive[-2:], broken=True)
    yield Case("tiff of a huge tile", tiff_of_one_tile(32_000, 22_000), broken=True)
    for size in (0, 1, 7):
        yield Case(f"png of side {size}", png(size, size, zlib.compress(bytes(300))), broken=True)


def polyglots(files: dict[str, bytes]) -> Iterator[Case]:
    """Files that are two things, or pretend to be."""
    html, archive = b"<script>alert(1)</script>", b"PK\x05\x06" + bytes(18)
    for name in ("JPEG-RGB", "PNG-RGB", "GIF-P", "BMP-RGB", "WEBP-RGB"):
        data = files[name]
        yield Case(f"{name} with html behind", data + html)
        yield Case(f"{name} with an archive behind", data + archive)
        yield Case(f"{name} behind html", html + data, broken=True)
        yield Case(f"{name} twice", data + data)
    for name, data in (
        ("nothing", b""),
        ("zeros", bytes(4096)),
        ("html", html),
        ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
        ("pdf", b"%PDF-1.7\n%%EOF"),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n"),
        ("xml entities", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
        ("ico", encoded(Image.new("RGB", (32, 32)), "ICO")),
        ("pcx", encoded(Image.new("RGB", (32, 32)), "PCX")),
        ("magic of each alone", b"\xff\xd8\xff"),
        ("png magic alone", b"\x89PNG\r\n\x1a\n"),
        ("riff alone", b"RIFF\x10\0\0\0WEBPVP8 "),
        ("tiff that points at itself", b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x10\0\0\0\x08\0\0\0"),
    ):
        yield Case(name, data, broken=True)
