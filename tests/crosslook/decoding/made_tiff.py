"""TIFF of many kinds, made here: see `made`. Browsers show none but Safari, so Pillow is compared with, or what the
format says where Pillow is wrong."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from tests.crosslook.decoding.made import (
    ALPHA,
    GREY,
    HEIGHT,
    RGB,
    WIDTH,
    Array,
    Made,
    exif,
    on_white,
    rgb,
    saved,
    turned,
)

MADE: dict[str, Made] = {}


def tiff(
    planes: list[bytes],
    *,
    bits: int = 8,
    photometric: int = 1,
    form: int = 1,
    samples: int = 1,
    planar: int = 1,
    order: str = "<",
    deflate: bool = False,
    more: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """A TIFF of one strip a plane."""
    strips = [zlib.compress(plane) if deflate else plane for plane in planes]
    tags: dict[int, tuple[int, ...]] = {
        256: (WIDTH,), 257: (HEIGHT,), 258: (bits,) * samples, 259: (8 if deflate else 1,), 262: (photometric,),
        277: (samples,), 278: (HEIGHT,), 284: (planar,), 339: (form,) * samples, **(more or {}),
    }  # fmt: skip
    places = {273: [0] * len(strips), 279: [len(strip) for strip in strips]}
    count = len(tags) + len(places)
    behind = 8 + 2 + 12 * count + 4
    sizes = [2 * len(v) for v in tags.values()] + [4 * len(v) for v in places.values()]
    at = behind + sum(size for size in sizes if size > 4)
    places[273] = [at + sum(map(len, strips[:n])) for n in range(len(strips))]
    entries, longer = b"", b""
    for tag, values in sorted((tags | {n: tuple(v) for n, v in places.items()}).items()):
        kind, letter = (4, "I") if tag in places else (3, "H")
        raw = struct.pack(f"{order}{len(values)}{letter}", *values)
        field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", behind + len(longer))
        longer += raw if len(raw) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, count)
    return head + entries + bytes(4) + longer + b"".join(strips)


def _add(name: str, pixels: Array, *args: Any, **options: Any) -> None:
    MADE[f"TIFF {name}"] = Made(tiff(*args, **options), pixels, "none")


def _grey() -> None:
    share = GREY / 255.0
    twelve = np.round(share * 4095).astype(int)
    bits = (twelve[..., None] >> np.arange(11, -1, -1)) & 1
    packed = np.packbits(bits.reshape(HEIGHT, -1), axis=-1).tobytes()
    for deflate in (False, True):
        for white, levels in ((0, 1 - share), (1, share)):
            kind = f"{'deflated' if deflate else 'plain'}, {'white' if white == 0 else 'black'} is 0"
            options: dict[str, Any] = {"photometric": white, "deflate": deflate}
            _add(f"8 bits {kind}", rgb(GREY), [np.round(levels * 255).astype(np.uint8).tobytes()], **options)
            for order in "<>":
                deep = np.round(levels * 65535).astype(f"{order}u2").tobytes()
                _add(f"16 bits {order} {kind}", rgb(GREY), [deep], bits=16, order=order, **options)
                real = levels.astype(f"{order}f4").tobytes()
                _add(f"float {order} {kind}", rgb(GREY), [real], bits=32, form=3, order=order, **options)
    _add("12 bits packed", rgb(GREY), [packed], bits=12)
    inverted = np.packbits(1 - bits.reshape(HEIGHT, -1), axis=-1).tobytes()
    _add("12 bits packed, white is 0", rgb(GREY), [inverted], bits=12, photometric=0)
    _add("12 bits in 16", rgb(GREY), [twelve.astype("<u2").tobytes()], bits=16, more={281: (4095,)})
    both = np.dstack([GREY, ALPHA])
    _add("grey alpha", on_white(rgb(GREY), ALPHA), [both.tobytes()], samples=2, more={338: (2,)})
    under = np.dstack([(GREY * (ALPHA / 255.0)).round().astype(np.uint8), ALPHA])
    _add("grey premultiplied", on_white(rgb(GREY), ALPHA), [under.tobytes()], samples=2, more={338: (1,)})


def _colours() -> None:
    for order in "<>":
        deep = (RGB.astype(int) * 257).astype(f"{order}u2")
        for deflate in (False, True):
            name = f"16 bits RGB {order}{' deflated' if deflate else ''}"
            options: dict[str, Any] = {"samples": 3, "photometric": 2, "bits": 16, "order": order, "deflate": deflate}
            _add(name, RGB, [deep.tobytes()], **options)
            _add(f"{name} in planes", RGB, [deep[..., n].tobytes() for n in range(3)], planar=2, **options)
    _add("RGB in planes", RGB, [RGB[..., n].tobytes() for n in range(3)], planar=2, samples=3, photometric=2)
    rgba = np.dstack([RGB, ALPHA])
    _add("RGBA", on_white(RGB, ALPHA), [rgba.tobytes()], samples=4, photometric=2, more={338: (2,)})
    under = np.round(rgba * np.dstack([ALPHA / 255.0] * 3 + [np.ones_like(ALPHA)])).astype(np.uint8)
    _add("RGBA premultiplied", on_white(RGB, ALPHA), [under.tobytes()], samples=4, photometric=2, more={338: (1,)})
    for number in range(1, 9):
        MADE[f"TIFF turned {number}"] = Made(saved(RGB, "TIFF", exif=exif(number)), turned(RGB, number), "none")


_grey()
_colours()
