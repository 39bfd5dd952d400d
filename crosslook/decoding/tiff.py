"""TIFF. Its first directory is written anew for libtiff with the tags that it needs and nothing else: it copies every
tag's value, and those of a hostile file share their bytes. Format: TIFF 6.0, and BigTIFF as libtiff has it.

Pillow misreads some kinds in silence, which are put right here: deep grey with white as 0, and 16 bits in planes.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, TiffImagePlugin

from crosslook.decoding.colour import MOST_BYTES as MOST_PROFILE
from crosslook.decoding.limits import (
    MOST_PARTS,
    DamagedData,
    Decoded,
    ImageLimits,
    UnsupportedFormat,
    too_many,
)
from crosslook.decoding.rendering import deep_to_grey, is_deep

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_OLD_JPEG = range(512, 522)
_PROFILE = 34675
_PARTS = (_OFFSETS, _COUNTS, _TILE_OFFSETS, _TILE_COUNTS)
_SIZES = (_WIDTH, _LENGTH, _ROWS, _TILE_WIDTH, _TILE_LENGTH)
_KEPT = {
    *(_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, *_PARTS, _SAMPLES, _ROWS, 281, _PLANAR, 292, 293, 317),
    *(320, _TILE_WIDTH, _TILE_LENGTH, 332, _EXTRA, _FORMAT, 347, *_OLD_JPEG, 529, 530, 531, 532, _PROFILE),
}
_MOST_TAGS = 1 << 16  # a plain TIFF can count no further
_MOST_VALUE = 1 << 21  # bytes, of one tag: a palette has 0.4 MB, and offsets have `MOST_PARTS`
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}


@dataclass(frozen=True, slots=True)
class _Tag:
    kind: int
    count: int
    value: bytes  # whole, in the file's order


@dataclass(frozen=True, slots=True)
class _Directory:
    """The tags of the first page; ``order`` is that of ``struct``."""

    order: str
    big: bool
    tags: dict[int, _Tag]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The values of a tag of whole numbers."""
        found = self.tags.get(tag)
        if found is None:
            return default
        form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(found.kind)
        if form is None:
            raise DamagedData(f"The image is damaged: its tag {tag} has a wrong type.")
        return struct.unpack(f"{self.order}{found.count}{form}", found.value)

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        return next(iter(self.numbers(tag)), default)

    def with_numbers(self, **changes: tuple[int, ...]) -> _Directory:
        """Another directory where tags (``t`` and the number) have these values."""
        kind, form = (16, "Q") if self.big else (4, "I")
        changed = dict(self.tags)
        for name, values in changes.items():
            tag = int(name[1:])
            if tag in _PARTS:
                changed[tag] = _Tag(kind, len(values), struct.pack(f"{self.order}{len(values)}{form}", *values))
            else:
                changed[tag] = _Tag(3, len(values), struct.pack(f"{self.order}{len(values)}H", *values))
        return replace(self, tags=changed)


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The first page. Raises `DamagedData` for an unreadable header."""
    del side  # no smaller sizes inside
    try:
        directory = _directory(data)
    except struct.error:
        raise DamagedData("The image is damaged: its header is unreadable.") from None
    orientation = directory.number(_ORIENTATION, 1)
    directory.tags.pop(_ORIENTATION, None)
    size = directory.number(_WIDTH), directory.number(_LENGTH)
    limits.check(*size)
    # libtiff allocates all of a tile, however small the image is.
    tile = directory.number(_TILE_WIDTH), directory.number(_TILE_LENGTH)
    if any(tile):
        replace(limits, min_side=1).check(*tile, of="tile of the image")
    bits, colour = directory.numbers(_BITS, (1,)), directory.number(_PHOTOMETRIC)
    if directory.number(_PLANAR, 1) == 2 and max(bits) == 16 and directory.number(_SAMPLES, 1) > 1:
        return Decoded(_planes(data, directory), *size, orientation)
    inverted = colour == 0 and max(bits) > 8
    image = _load(data, directory.with_numbers(t262=(1,)) if inverted else directory)
    if is_deep(image):
        grey = deep_to_grey(image, inverted=inverted)
        grey.info["icc_profile"] = image.info.get("icc_profile")
        image = grey
    return Decoded(image, *size, orientation)


def _directory(data: bytes) -> _Directory:
    """The first directory, with the tags that matter."""
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    (start,) = struct.unpack_from(order + ("8xQ" if big else "4xI"), data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    if count > _MOST_TAGS:
        raise too_many("tags", _MOST_TAGS)
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    tags: dict[int, _Tag] = {}
    for at in range(start + (8 if big else 2), start + (8 if big else 2) + count * entry.size, entry.size):
        tag, kind, values, value = entry.unpack_from(data, at)
        if (tag not in _KEPT and tag != _ORIENTATION) or tag in tags:  # of two of a kind the first counts
            continue
        if tag in _PARTS and values > MOST_PARTS:
            raise too_many("parts")
        if kind not in _WIDTHS or (tag in _SIZES and kind not in (3, 4)):
            raise DamagedData(f"The image is damaged: its tag {tag} has a wrong type.")
        size = _WIDTHS[kind] * values
        if size > (MOST_PROFILE if tag == _PROFILE else _MOST_VALUE):
            if tag == _PROFILE:
                continue
            raise DamagedData(f"The image is damaged: its tag {tag} is too long.")
        if size <= len(value):
            value = value[:size]
        else:
            (offset,) = struct.unpack(order + ("Q" if big else "I"), value)
            value = data[offset : offset + size]
            if len(value) < size:
                if tag == _PROFILE:
                    continue
                raise DamagedData("The image is truncated or damaged.")
        tags[tag] = _Tag(kind, values, value)
    return _Directory(order, big, tags)


def _written(data: bytes, directory: _Directory) -> bytes:
    """The file with another first directory, at its end."""
    order, big = directory.order, directory.big
    wide, form = (8, "Q") if big else (4, "I")
    start = len(data) + len(data) % 2
    values_at = start + (8 if big else 2) + len(directory.tags) * (20 if big else 12) + wide
    entries, values = [struct.pack(order + ("Q" if big else "H"), len(directory.tags))], b""
    for number, tag in sorted(directory.tags.items()):
        field = tag.value
        if len(field) > wide:
            values += b"\0" * (len(values) % 2)
            field = struct.pack(order + form, values_at + len(values))
            values += tag.value
        entries.append(struct.pack(order + "HH" + form, number, tag.kind, tag.count) + field.ljust(wide, b"\0"))
    first = 8 if big else 4
    return b"".join(
        [data[:first], struct.pack(order + form, start), data[first + wide :], b"\0" * (len(data) % 2), *entries,
         bytes(wide), values]
    )  # fmt: skip


def _load(data: bytes, directory: _Directory) -> Image.Image:
    if directory.number(_COMPRESSION, 1) not in TiffImagePlugin.COMPRESSION_INFO:
        raise _unsupported(directory)
    file = io.BytesIO(_written(data, directory))
    try:
        image = TiffImagePlugin.TiffImageFile(file)
    except SyntaxError:  # the arrangement of pixels is none that Pillow knows
        raise _unsupported(directory) from None
    if image.use_load_libtiff:  # gives the machine's own order, which Pillow knows of 16 bits without a sign alone
        image.tile = [tile._replace(args=_native(tile.args)) for tile in image.tile]
    image.load()
    return image


def _native(args: Any) -> tuple[Any, ...]:
    native = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
    return (native.get(args[0], args[0]), *args[1:])


def _planes(data: bytes, directory: _Directory) -> Image.Image:
    """16-bit RGB in planes: three grey images of one file."""
    samples = directory.number(_SAMPLES)
    bits, formats = directory.numbers(_BITS, (16,)), directory.numbers(_FORMAT, (1,))
    if samples != 3 or directory.number(_PHOTOMETRIC) != 2 or {*bits} != {16} or {*formats} != {1}:
        raise _unsupported(directory)
    offsets, counts = (_OFFSETS, _COUNTS) if _OFFSETS in directory.tags else (_TILE_OFFSETS, _TILE_COUNTS)
    bands = []
    for plane in range(samples):
        parts = {}
        for tag in (offsets, counts):
            values = directory.numbers(tag)
            each = len(values) // samples
            parts[f"t{tag}"] = values[plane * each : (plane + 1) * each]
        grey = directory.with_numbers(t258=(16,), t262=(1,), t277=(1,), t284=(1,), t339=(1,), **parts)
        grey.tags.pop(_EXTRA, None)
        bands.append(deep_to_grey(_load(data, grey)))
    image = Image.merge("RGB", bands)
    if _PROFILE in directory.tags:
        image.info["icc_profile"] = directory.tags[_PROFILE].value
    return image


def _unsupported(directory: _Directory) -> UnsupportedFormat:
    bits = directory.numbers(_BITS, (1,))
    what = f"{directory.number(_SAMPLES, 1)} x {max(bits)} bits"
    form = {2: ", signed", 3: ", floating point", 5: ", complex", 6: ", complex"}.get(directory.number(_FORMAT, 1), "")
    colour = _COLOURS.get(directory.number(_PHOTOMETRIC), f"photometric {directory.number(_PHOTOMETRIC)}")
    return UnsupportedFormat(
        f"The image is a TIFF of a variety that is not supported ({colour}, {what}{form}, compression "
        f"{directory.number(_COMPRESSION, 1)}); grey, RGB, palette and CMYK of 8 or 16 bits and grey floats of 32 are."
    )
