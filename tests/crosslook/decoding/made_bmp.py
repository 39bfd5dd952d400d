"""BMP of every kind that browsers show, made here: see `made`."""

from __future__ import annotations

import struct

import numpy as np

from tests.crosslook.decoding.made import ALPHA, HEIGHT, RGB, WIDTH, Array, Made, on_white

MADE: dict[str, Made] = {}
_PALETTE = RGB[::3, ::3].reshape(-1, 3)[:16]
_INDEX = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH) // 4) % 16).astype(np.uint8)


def bmp(
    rows: list[bytes] | bytes,
    bits: int,
    *,
    kind: int = 0,
    size: int = 40,
    palette: Array | None = None,
    masks: tuple[int, ...] = (),
    upwards: bool = True,
) -> bytes:
    """A BMP of rows from the top (bytes: of a body as it is), with a header of ``size`` bytes."""
    colours = b"" if palette is None else b"".join(bytes(c[::-1]) + b"\0" * (size > 12) for c in palette.tolist())
    if isinstance(rows, list):
        body = b"".join(row + b"\0" * (-len(row) % 4) for row in (reversed(rows) if upwards else rows))
    else:
        body = rows
    if size == 12:
        head = struct.pack("<IHHHH", size, WIDTH, HEIGHT, 1, bits)
    else:
        height = HEIGHT if upwards else -HEIGHT
        used = 0 if palette is None else len(palette)
        head = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, kind, len(body), 0, 0, used, 0)
        head = struct.pack("<I", size) + (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\0")[4:size]
        if size < 52 and masks:
            head += struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + len(head) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + colours + body


def _packed(index: Array, bits: int) -> list[bytes]:
    spread = np.unpackbits(index[..., None].astype(np.uint8), axis=-1)[..., 8 - bits :]
    return [np.packbits(row.reshape(-1)).tobytes() for row in spread]


def _fields(
    depths: tuple[int, int, int, int], shifts: tuple[int, int, int, int], bits: int
) -> tuple[list[bytes], tuple[int, ...], Array]:
    """Rows, masks, and the RGB pixels that they stand for."""
    words = np.zeros((HEIGHT, WIDTH), np.uint32)
    bands, seen = np.dstack([RGB, ALPHA]), []
    for band, depth, shift in zip(range(4), depths, shifts, strict=True):
        level = np.round(bands[..., band] / 255.0 * (2**depth - 1)).astype(np.uint32)
        words |= level << np.uint32(shift)
        seen.append(np.round(level * 255.0 / max(1, 2**depth - 1)).astype(np.uint8))
    masks = tuple(((1 << depth) - 1) << shift for depth, shift in zip(depths, shifts, strict=True))
    colours = np.dstack(seen[:3])
    pixels = on_white(colours, seen[3]) if depths[3] else colours
    return [row.astype("<u4" if bits == 32 else "<u2").tobytes() for row in words], masks, pixels


def _runs(index: Array, bits: int) -> bytes:
    """Runs of equal pixels, and a stretch of each row as it is; the last row ends early."""
    body = b""
    for row in index[::-1]:
        for at in range(0, WIDTH - 8, 4):
            body += bytes([4, row[at] if bits == 8 else row[at] << 4 | row[at]])
        tail = row[WIDTH - 8 :]
        body += bytes([0, 8]) + (
            tail.tobytes() if bits == 8 else bytes(a << 4 | b for a, b in tail.reshape(-1, 2).tolist())
        )
        body += b"\0\0"
    return body + b"\0\1"


def _make() -> None:
    for bits in (1, 2, 4, 8):
        index = _INDEX % min(2**bits, 16)
        palette = _PALETTE[: 2**bits]
        MADE[f"BMP palette {bits}"] = Made(bmp(_packed(index, bits), bits, palette=palette), palette[index])
    MADE["BMP OS/2 1, palette"] = Made(bmp(_packed(_INDEX, 4), 4, size=12, palette=_PALETTE), _PALETTE[_INDEX])
    MADE["BMP OS/2 2, palette"] = Made(bmp(_packed(_INDEX, 4), 4, size=64, palette=_PALETTE), _PALETTE[_INDEX])
    MADE["BMP OS/2 2 of 16 bytes, 24"] = Made(bmp([row[:, ::-1].tobytes() for row in RGB], 24, size=16), RGB)
    MADE["BMP downwards"] = Made(bmp([row[:, ::-1].tobytes() for row in RGB], 24, upwards=False), RGB)
    MADE["BMP 24"] = Made(bmp([row[:, ::-1].tobytes() for row in RGB], 24), RGB)
    MADE["BMP 32, no alpha"] = Made(bmp([np.dstack([r[None, :, ::-1], ALPHA[:1]])[0].tobytes() for r in RGB], 32), RGB)
    rows, _, pixels = _fields((5, 5, 5, 0), (10, 5, 0, 0), 16)
    MADE["BMP 16"] = Made(bmp(rows, 16), pixels)
    for name, depths, shifts, bits, size, count in (
        ("565", (5, 6, 5, 0), (11, 5, 0, 0), 16, 40, 3),
        ("555", (5, 5, 5, 0), (10, 5, 0, 0), 16, 56, 4),
        ("4444", (4, 4, 4, 4), (8, 4, 0, 12), 16, 108, 4),
        ("444", (4, 4, 4, 0), (8, 4, 0, 0), 16, 40, 3),
        ("1555", (5, 5, 5, 1), (10, 5, 0, 15), 16, 124, 4),
        ("8888 RGBA", (8, 8, 8, 8), (24, 16, 8, 0), 32, 108, 4),
        ("8888 BGRA", (8, 8, 8, 8), (16, 8, 0, 24), 32, 124, 4),
        ("8880 of header 40", (8, 8, 8, 0), (0, 8, 16, 0), 32, 40, 3),
        ("10 bits each", (10, 10, 10, 0), (20, 10, 0, 0), 32, 108, 4),
        ("header 52", (5, 6, 5, 0), (11, 5, 0, 0), 16, 52, 3),
    ):
        rows, masks, pixels = _fields(depths, shifts, bits)
        MADE[f"BMP fields {name}"] = Made(bmp(rows, bits, kind=3, size=size, masks=masks[:count]), pixels)
    blank = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    blank[..., :3] = RGB[..., ::-1]
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    rows = [row.tobytes() for row in blank]
    MADE["BMP fields, alpha zero everywhere"] = Made(bmp(rows, 32, kind=3, size=108, masks=masks), RGB)
    even = _INDEX.copy()
    even[:, : WIDTH - 8] = even[:, : WIDTH - 8 : 4].repeat(4, axis=1)
    MADE["BMP RLE8"] = Made(bmp(_runs(even, 8), 8, kind=1, palette=_PALETTE), _PALETTE[even])
    MADE["BMP RLE4"] = Made(bmp(_runs(even, 4), 4, kind=2, palette=_PALETTE), _PALETTE[even])
    body = (
        b"".join(b"".join(bytes([1, *pixel[::-1]]) for pixel in row.tolist()) + b"\0\0" for row in RGB[::-1]) + b"\0\1"
    )
    MADE["BMP RLE24"] = Made(bmp(body, 24, kind=4, size=64), RGB)
    gap = bytes([4, 3]) + b"\0\0" + b"\0\2\x05\x02" + bytes([6, 9]) + b"\0\0" + b"\0\1"
    pixels = np.full_like(RGB, 255)
    pixels[HEIGHT - 1, :4], pixels[HEIGHT - 4, 5:11] = _PALETTE[3], _PALETTE[9]
    MADE["BMP RLE8 with gaps"] = Made(bmp(gap, 8, kind=1, palette=_PALETTE), pixels)


_make()
