"""Where a rule of decoding begins and ends: the largest that is taken, the smallest that is refused, and the byte that
tells one kind from another."""

from __future__ import annotations

import struct
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from crosslook.decoding import (
    DamagedData,
    ImageLimits,
    TooLarge,
    bmff,
    decode_image,
    gif,
    jpeg,
    png,
    webp,
)
from crosslook.decoding.exif import orientation_of, orientation_of_image
from crosslook.decoding.kinds import describe, kind_of
from crosslook.decoding.limits import TooSmall, too_many
from crosslook.decoding.rendering import deep_to_grey
from tests.crosslook.decoding.made import RGB, chunk, saved
from tests.crosslook.decoding.made import png as made_png

LIMITS = ImageLimits(file_bytes=1 << 20, pixels=8100, side=100, min_side=81)


# -- limits ---------------------------------------------------------------------------------------------------------


def test_an_image_of_just_the_allowed_size_passes() -> None:
    LIMITS.check(100, 81)
    LIMITS.check(81, 100)
    ImageLimits(1, 1 << 20, 100, 1).check(1, 1)
    ImageLimits(1, 8101, 100, 1).check(81, 50, share=2)  # half of an odd number is the smaller half


@pytest.mark.parametrize(("width", "height"), [(101, 81), (81, 101), (91, 90), (90, 91)])
def test_one_more_is_too_large(width: int, height: int) -> None:
    with pytest.raises(TooLarge) as caught:
        LIMITS.check(width, height)
    assert caught.value.detail == {"max_pixels": 8100, "max_side": 100, "width": width, "height": height}


@pytest.mark.parametrize(("width", "height"), [(100, 80), (80, 100)])
def test_one_less_is_too_small(width: int, height: int) -> None:
    with pytest.raises(TooSmall) as caught:
        LIMITS.check(width, height)
    assert caught.value.detail == {"width": width, "height": height, "min_side": 81}


@pytest.mark.parametrize(("width", "height"), [(0, 90), (90, 0), (-1, 90)])
def test_no_pixels_at_all_are_damage(width: int, height: int) -> None:
    with pytest.raises(DamagedData):
        ImageLimits(1, 1 << 20, 100, 0).check(width, height)


def test_too_many_names_what_there_is_too_much_of() -> None:
    assert too_many("scans of it", 7).detail == {"max_scans": 7}
    assert too_many("chunks").detail == {"max_chunks": 131_072}


# -- kinds ----------------------------------------------------------------------------------------------------------


def box(*brands: bytes, size: int | None = None) -> bytes:
    """The first box of an ISO media file: a major brand, a version, and others."""
    body = b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])
    return struct.pack(">I", len(body) + 4 if size is None else size) + body


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\xff\xd8\xfe", None),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"GIF88a", None),
        (b"MM\0+", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"LIFF\0\0\0\0WEBP", None),
        (b"BM\1\2\3\4\0\0\0\0", "BMP"),
        (b"BM\1\2\3\4\0\0\0\1", None),
        (b"BM\1\2\3\4\1\0\0\0", None),
        (box(b"avif"), "AVIF"),
        (box(b"avis", b"msf1"), "AVIF"),
        (box(b"mif1", b"heic", b"avif"), "AVIF"),
        (box(b"heic"), "HEIC"),
        (box(b"isom", b"mp41", b"heix"), "HEIC"),
        (box(b"isom", b"mp41"), None),
        (box(b"isom", b"heix", size=20), "HEIC"),
        (box(b"isom", b"mp41", b"heix", size=20), None),
        (box(b"isom", *[b"mp41"] * 251, b"heix"), "HEIC"),
        (box(b"isom", *[b"mp41"] * 252, b"heix"), None),
        (b"\0\0\0\x18ftypisom" + b"heic" + b"mp41mp42", None),
    ],
)
def test_the_first_bytes_tell_the_format(data: bytes, kind: str | None) -> None:
    """Of a container, the brands of its first box, and not what stands between them or behind."""
    assert kind_of(data) == kind


@pytest.mark.parametrize(
    ("data", "what"),
    [(bytes(128) + b"DICM", "a DICOM file"), (bytes(127) + b"DICM", "of a format"), (b"ID3", "a sound file")],
)
def test_other_files_have_their_name(data: bytes, what: str) -> None:
    assert describe(data).startswith(what)


# -- orientation ----------------------------------------------------------------------------------------------------


def block(*entries: tuple[int, int, int], order: str = "<", count: int | None = None, start: int = 8) -> bytes:
    """EXIF of tags, kinds and values (16 bits)."""
    body = struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, value in entries:
        body += struct.pack(order + "HHIHH", tag, kind, 1, value, 0)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start) + bytes(start - 8) + body


@pytest.mark.parametrize(
    ("data", "orientation"),
    [
        (block((0x112, 3, 6)), 6),
        (block((0x112, 3, 6), order=">"), 6),
        (b"Exif\0\0" + block((0x112, 3, 8)), 8),
        (block((0x10E, 2, 3), (0x112, 3, 7)), 7),
        (block((0x112, 3, 2), (0x112, 3, 3)), 2),
        (block((0x112, 3, 5), start=30), 5),
        (block((0x112, 3, 1)), 1),
        (block((0x112, 3, 0)), 1),
        (block((0x112, 3, 9)), 1),
        (block((0x112, 4, 6)), 1),
        (block((0x113, 3, 6)), 1),
        (block((0x10E, 2, 3), (0x112, 3, 7), count=1), 1),
        (block((0x10E, 2, 3), count=9), 1),
        (block((0x112, 3, 6))[:-5], 1),
        (b"XX" + block((0x112, 3, 6))[2:], 1),
        (b"II*\0", 1),
        (b"", 1),
    ],
)
def test_the_orientation_in_a_block(data: bytes, orientation: int) -> None:
    assert orientation_of(data) == orientation


def test_the_orientation_of_what_pillow_opened() -> None:
    """By the same rule, whatever Pillow would go by beside it."""
    image = Image.new("RGB", (4, 4))
    assert orientation_of_image(image) == 1
    image.getexif()[0x112] = 6
    assert orientation_of_image(image) == 6
    image.getexif()[0x112] = 9
    assert orientation_of_image(image) == 1
    image.getexif()[0x112] = 6
    image.info["xmp"] = b"tiff:Orientation"
    assert orientation_of_image(image) == 1
    image.info["exif"] = block((0x112, 3, 8))
    assert orientation_of_image(image) == 8
    for kind in ("WEBP", "TIFF"):
        image.format = kind
        assert orientation_of_image(image) == 1


# -- how many parts -------------------------------------------------------------------------------------------------


def flooded(kind: str, parts: int) -> bytes:
    """A file with so many parts more that nobody needs."""
    if kind == "PNG":
        return made_png(RGB, 2, 8, *[chunk(b"abCd", b"")] * parts)
    data = saved(RGB, {"AVIF": "AVIF", "GIF": "GIF", "JPEG": "JPEG", "WEBP": "WEBP"}[kind])
    if kind == "JPEG":
        return data[:2] + b"\xff\xfe\0\2" * parts + data[2:]
    if kind == "GIF":
        return data[:-1].replace(b"\x2c\0\0\0\0\x28\0\x18\0", b"!\xfe\0" * parts + b"\x2c\0\0\0\0\x28\0\x18\0") + b";"
    if kind == "WEBP":
        return data + b"abcd\0\0\0\0" * parts
    return data + b"\0\0\0\x08free" * parts


@pytest.mark.parametrize(("kind", "module"), [("PNG", png), ("JPEG", jpeg), ("GIF", gif), ("WEBP", webp)])
def test_the_number_of_parts_has_one_bound(kind: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to it a file is taken; with one more it is refused, and nothing else is."""
    plain = flooded(kind, 0)
    for most in range(2, 60):
        monkeypatch.setattr(module, "MOST_PARTS", most)
        try:
            decode_image(plain)
            break
        except TooLarge:
            continue
    decode_image(plain)
    for more in (1, 5):
        with pytest.raises(TooLarge):
            decode_image(flooded(kind, more))
    monkeypatch.setattr(module, "MOST_PARTS", most + (10 if kind == "GIF" else 5))
    decode_image(flooded(kind, 5))
    monkeypatch.setattr(module, "MOST_PARTS", 1 << 17)
    decode_image(flooded(kind, 50))


def test_boxes_end_with_the_file_or_say_that_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of size 0 goes to the end, one of size 1 has its size in 64 bits; none is smaller than its head."""
    assert bmff.checked(b"\0\0\0\0mdat" + bytes(100)) == b"\0\0\0\0mdat" + bytes(100)
    long = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    assert bmff.checked(long + b"\0\0\0\x08free") == long + b"\0\0\0\x08free"
    for size, wide in ((7, 0), (2, 0), (1, 15), (1, 0)):
        with pytest.raises(DamagedData):
            bmff.checked(struct.pack(">I4sQ", size, b"free", wide))
    bmff.checked(struct.pack(">I4sQ", 1, b"free", 16))
    bmff.checked(b"\0\0\0\x08free")
    monkeypatch.setattr(bmff, "MOST_HEADER", 40)
    for kind in (b"ftyp", b"meta", b"moov"):
        assert bmff.checked(struct.pack(">I4s", 40, kind) + bytes(32))
        with pytest.raises(TooLarge) as caught:
            bmff.checked(struct.pack(">I4s", 41, kind) + bytes(33))
        assert caught.value.detail == {"max_header": 40}
        with pytest.raises(TooLarge):
            bmff.checked((struct.pack(">I4s", 20, kind) + bytes(12)) * 2 + struct.pack(">I4s", 8, kind))
    assert bmff.checked(struct.pack(">I4s", 80, b"mdat") + bytes(72))


# -- rendering ------------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_rounded_to_eight() -> None:
    """The highest value is white, so a step of 8 bits is 257 of 16."""
    values = np.array([[0, 128, 129, 200 * 257 + 128, 200 * 257 + 129, 65535]], np.uint16)
    for same in (values, values.astype(np.int32)):
        assert np.asarray(deep_to_grey(Image.fromarray(same))).tolist() == [[0, 0, 1, 200, 201, 255]]


@pytest.mark.parametrize(("clear", "seen"), [(255, 255), (256, 0)])
@pytest.mark.parametrize("colour", [0, 2])
def test_a_transparent_colour_beyond_eight_bits_is_none(colour: int, clear: int, seen: int) -> None:
    """It is written in 16 bits; the lower 8 of 256 would be black."""
    value = clear % 256
    values = np.full((8, 8) if colour == 0 else (8, 8, 3), value, np.uint8)
    tag = chunk(b"tRNS", struct.pack(">H", clear) * (1 if colour == 0 else 3))
    image = decode_image(made_png(values, colour, 8, tag)).image
    assert set(np.asarray(image).ravel()) == {seen}
