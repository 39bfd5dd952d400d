"""What each format's reader takes of a file, and what it leaves: the rules that the made files do not tell apart."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from crosslook.decoding import DamagedData, DecodingError, ImageLimits, TooLarge, decode_image, jpeg, webp
from crosslook.decoding.colour import converter
from tests.crosslook.decoding import profiles
from tests.crosslook.decoding.made import ALPHA, GREY, HEIGHT, RGB, WIDTH, chunk, exif, iccp, rgb, saved
from tests.crosslook.decoding.made import png as made_png


def seen(data: bytes) -> np.ndarray:
    """The pixels that come out."""
    return np.asarray(decode_image(data).image)


# -- PNG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [0, 2])
def test_a_transparent_colour_that_no_pixel_can_have(colour: int) -> None:
    """Of 8 bits, whose tRNS has 16: it is another colour, although its lower byte is one of the image's."""
    plain, values = (
        (RGB, (256 + int(RGB[3, 3, 0]), *map(int, RGB[3, 3, 1:]))) if colour else (GREY, (256 + int(GREY[3, 3]),))
    )
    data = made_png(plain, colour, 8, chunk(b"tRNS", struct.pack(f">{len(values)}H", *values)))
    assert np.array_equal(seen(data), plain if colour else rgb(plain))


def test_the_largest_transparent_colour() -> None:
    """255 is one."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image[0, 0] = (255, 255, 254)
    image[1:3] = (0, 0, 255)
    data = made_png(image, 2, 8, chunk(b"tRNS", struct.pack(">3H", 0, 0, 255)))
    assert (seen(data)[1:3] == 255).all()
    assert tuple(seen(data)[0, 0]) == (255, 255, 254)


@pytest.mark.parametrize(
    "header",
    [
        bytes(12),
        bytes(14),
        struct.pack(">IIBBBBB", 40, 24, 3, 2, 0, 0, 0),
        struct.pack(">IIBBBBB", 40, 24, 8, 5, 0, 0, 0),
    ],
    ids=["short", "long", "depth", "colour"],
)
def test_a_header_of_png_that_says_nothing_known(header: bytes) -> None:
    data = made_png(RGB, 2, 8)
    at = data.index(b"IHDR") - 4
    with pytest.raises(DamagedData, match="header is unreadable"):
        decode_image(data[:at] + chunk(b"IHDR", header) + data[at + 25 :])


def test_a_png_whose_last_chunk_is_cut() -> None:
    """Whole where only what is behind the pixels is missing: their checksum, and the end."""
    data = made_png(RGB, 2, 8)
    for cut in (1, 4, 11, 12, 13, 15, 16):
        assert np.array_equal(seen(data[:-cut]), RGB), cut
    for cut in (40, 100):
        with pytest.raises(DecodingError):
            decode_image(data[:-cut])


@pytest.mark.parametrize(
    ("body", "used"),
    [
        (b"p\0\0", True),
        (b"\0\0", False),
        (b"p\0\1", False),
        (b"p", False),
    ],
    ids=["as it should be", "no name", "another method", "nothing"],
)
def test_a_profile_of_png_is_read_as_the_standard_has_it(body: bytes, used: bool) -> None:

    profile = zlib.compress(profiles.rgb_profile(profiles.SWAPPED))
    found = seen(made_png(RGB, 2, 8, chunk(b"iCCP", body + profile)))
    assert np.array_equal(found, RGB) != used
    if used:
        cut = seen(made_png(RGB, 2, 8, chunk(b"iCCP", body + profile[:-9])))
        assert np.array_equal(cut, RGB)
        first = seen(made_png(RGB, 2, 8, chunk(b"iCCP", body + profile), iccp(profiles.rgb_profile(profiles.SRGB))))
        assert np.array_equal(first, found)


# -- JPEG -----------------------------------------------------------------------------------------------------------


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """The same JPEG with a segment more at its beginning."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]


def test_the_first_exif_of_a_jpeg_counts() -> None:
    data = saved(RGB, "JPEG")
    upright = decode_image(data).image.size
    assert decode_image(with_segment(with_segment(data, 0xE1, exif(1)), 0xE1, exif(6))).image.size == upright[::-1]
    assert decode_image(with_segment(with_segment(data, 0xE1, exif(6)), 0xE1, exif(1))).image.size == upright
    assert decode_image(with_segment(data, 0xE2, exif(6))).image.size == upright
    assert decode_image(with_segment(data, 0xE1, exif(6)[1:])).image.size == upright


def test_a_profile_of_jpeg_in_parts_in_any_order() -> None:
    profile = profiles.rgb_profile(profiles.SWAPPED)
    data = saved(RGB, "JPEG", quality=95, subsampling=0)
    whole = seen(saved(RGB, "JPEG", quality=95, subsampling=0, icc_profile=profile))
    assert np.abs(whole.astype(int) - seen(data)).mean() > 20
    parts = [
        b"ICC_PROFILE\0" + bytes((n + 1, 3)) + profile[200 * n : 200 * (n + 1) if n < 2 else None] for n in range(3)
    ]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        made = data
        for n in order:
            made = with_segment(made, 0xE2, parts[n])
        assert np.array_equal(seen(made), whole)
    twice = with_segment(data, 0xE2, parts[0][:20])  # behind the real one, so it is not the one that counts
    for n in range(3):
        twice = with_segment(twice, 0xE2, parts[n])
    assert np.array_equal(seen(twice), whole)
    assert np.array_equal(seen(with_segment(data, 0xE2, b"ICC_PROFILE\0\1")), seen(data))


def test_tables_of_a_jpeg_up_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    restart = b"\xff\xdd\0\4\0\0"
    data = saved(RGB, "JPEG")
    kept = next(n for n in range(1, 40) if _taken(data, n, monkeypatch))
    assert _taken(data[:2] + restart * 3 + data[2:], kept + 3, monkeypatch)
    assert not _taken(data[:2] + restart * 3 + data[2:], kept + 2, monkeypatch)


def _taken(data: bytes, most: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(jpeg, "MOST_TABLES", most)
    try:
        decode_image(data)
    except TooLarge as error:
        return error.detail != {"max_tables": most}
    return True


@pytest.mark.parametrize("channels", [2, 5])
def test_a_jpeg_of_other_channels(channels: int) -> None:
    data = bytearray(saved(RGB, "JPEG"))
    data[data.index(b"\xff\xc0") + 9] = channels
    with pytest.raises(DecodingError, match=f"{channels} channels"):
        decode_image(bytes(data))


def test_a_jpeg_without_a_frame_or_with_half_of_one() -> None:
    data = saved(RGB, "JPEG")
    at = data.index(b"\xff\xc0")
    for frame in (b"", b"\xff\xc0\0\7\x08\0\x18\0\x28"):
        with pytest.raises(DamagedData, match="header is unreadable"):
            decode_image(data[:at] + frame + data[at + 19 :])


@pytest.mark.parametrize("side", [None, 1, 100, 150, 151, 600])
def test_a_jpeg_is_made_smaller_down_to_what_is_asked(side: int | None) -> None:
    """By 1/2, 1/4 or 1/8, and no smaller than ``side``."""
    found = decode_image(saved(Image.new("RGB", (800, 600)), "JPEG"), side=side)
    expected = {None: 600, 1: 75, 100: 150, 150: 150, 151: 300, 600: 600}[side]
    assert (found.height, found.image.height) == (600, expected)


# -- WebP -----------------------------------------------------------------------------------------------------------


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def parts(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a WebP by their names."""
    return webp._chunks(data)


def test_chunks_of_odd_length_have_a_byte_more() -> None:
    kinds = parts(saved(RGB, "WEBP", lossless=True))
    for body in (b"", b"x", b"xy", b"xyz"):
        data = riff((b"abcd", body), *kinds.items())
        assert np.array_equal(seen(data), RGB)


def test_the_first_chunk_of_a_kind_counts_and_pixels_are_whole() -> None:
    kinds = parts(saved(RGB, "WEBP", lossless=True))
    (kind, body), *_ = kinds.items()
    other = parts(saved(255 - RGB, "WEBP", lossless=True))[kind]
    assert np.array_equal(seen(riff((kind, body), (kind, other))), RGB)
    with pytest.raises(DamagedData, match="truncated"):
        decode_image(riff((kind, body))[:-2])


def test_a_canvas_of_a_webp_has_its_size_in_three_bytes_each() -> None:
    """Less one, and in any order of pixels: 40 x 24 is no 24 x 40."""
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    data = saved(image, "WEBP", quality=95)
    assert b"VP8X" in parts(data)
    assert decode_image(data).image.size == (WIDTH, HEIGHT)
    extended = bytearray(parts(data)[b"VP8X"])
    extended[6] = 1  # 65,536 more columns
    with pytest.raises(TooLarge) as caught:
        decode_image(riff((b"VP8X", bytes(extended))), ImageLimits(1 << 20, 1 << 30, 16_384, 1))
    assert caught.value.detail["width"] == WIDTH + 65_536
    with pytest.raises(DamagedData, match="header is unreadable"):
        decode_image(riff((b"VP8X", bytes(extended[:9]))))


@pytest.mark.parametrize("body", [b"", b"\x2f\0\0\0", b"\x2e\0\0\0\0", bytes(12)])
def test_a_webp_without_a_readable_size(body: bytes) -> None:
    for kind in (b"VP8L", b"VP8 "):
        with pytest.raises(DamagedData, match="header is unreadable"):
            decode_image(riff((kind, body)))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(40, 24), (16_383, 1), (1, 300)])
def test_the_size_of_a_plain_webp(lossless: bool, size: tuple[int, int]) -> None:
    found = decode_image(saved(Image.new("RGB", size), "WEBP", lossless=lossless))
    assert (found.width, found.height) == size


# -- profiles -------------------------------------------------------------------------------------------------------


def test_a_profile_is_used_for_its_own_kind_of_image() -> None:
    swapped = profiles.rgb_profile(profiles.SWAPPED)
    assert converter(swapped, "RGB") is not None
    assert converter(swapped, "L") is None
    assert converter(swapped, "CMYK") is None
    assert converter(None, "RGB") is None
    assert converter(swapped[:131], "RGB") is None
    for kind in (b"scnr", b"mntr", b"prtr", b"spac"):
        assert converter(swapped[:12] + kind + swapped[16:], "RGB") is not None
    assert converter(swapped[:12] + b"abst" + swapped[16:], "RGB") is None
