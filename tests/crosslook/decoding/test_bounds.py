"""Small files that would cost much, refused before they are decoded or decoded without the cost; varieties that are not
read, by their names; damage that does no harm."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from crosslook.decoding import (
    DamagedData,
    DecodingError,
    ImageLimits,
    Large,
    TooLarge,
    UnsupportedFormat,
    bmff,
    bmp_runs,
    colour,
    decode_image,
)
from tests.app.servers import ROOT
from tests.crosslook.decoding import made, profiles
from tests.crosslook.decoding.made import RGB, chunk, iccp, png, saved
from tests.crosslook.decoding.made_bmp import bmp
from tests.crosslook.decoding.made_tiff import tiff

LIMITS = ImageLimits(file_bytes=20 << 20, pixels=50_000_000, side=16_384, min_side=8)
NOISE = np.random.default_rng(3).integers(0, 255, (96, 128, 3), dtype=np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def size_of(data: bytes) -> tuple[int, int]:
    return decode_image(data, LIMITS).image.size


def test_metadata_of_any_amount_cost_nothing() -> None:
    """Chunks and segments that no decoder needs are left out: text of many MB inflated, and thousands of pieces of
    EXIF, that Pillow would join one by one."""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(4_000_000)))
    assert size_of(png(RGB, 2, 8, *[text] * 30)) == (40, 24)
    assert size_of(png(RGB, 2, 8, *[chunk(b"abCd", b"")] * 50_000)) == (40, 24)
    jpeg = saved(RGB, "JPEG")
    piece = b"\xff\xe1" + struct.pack(">H", 158) + b"Exif\0\0" + bytes(150)
    assert size_of(jpeg[:2] + piece * 40_000 + jpeg[2:]) == (40, 24)
    assert size_of(jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:]) == (40, 24)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (png(RGB, 2, 8, *[chunk(b"abCd", b"")] * 140_000), "chunks"),
        (saved(RGB, "JPEG")[:2] + b"\xff\xdb\0\x43" + bytes(65) * 1 + saved(RGB, "JPEG")[2:20], "damaged"),
        (saved(RGB, "JPEG")[:2] + (b"\xff\xdd\0\4\0\0") * 300 + saved(RGB, "JPEG")[2:], "tables"),
    ],
    ids=["PNG of chunks", "JPEG of nothing", "JPEG of tables"],
)
def test_floods_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(DecodingError, match=what):
        decode_image(data, LIMITS)


def test_tags_of_a_tiff_that_share_their_bytes() -> None:
    """libtiff would copy each: 2,000 tags over the same 900 kB are 1.7 GB. What is read is bounded tag by tag."""
    more = {40_000 + n: (0,) * 100 for n in range(2000)}
    assert size_of(tiff([made.GREY.tobytes()], deflate=True, more=more)) == (40, 24)
    data = bytearray(tiff([made.GREY.tobytes()], deflate=True, more={320: (0,) * 8}))
    at = data.index(struct.pack("<HHI", 320, 3, 8))
    data[at + 4 : at + 8] = struct.pack("<I", 2_000_000)
    with pytest.raises(DamagedData, match="tag 320 is too long"):
        decode_image(bytes(data), LIMITS)


def test_the_runs_of_a_bmp_cost_by_their_number() -> None:
    """Rows of a pixel and an end, 13 kB for 50 million pixels, which took Pillow 5.7 s; and more runs than allowed."""
    assert size_of(_runs(b"\1\0\0\0" * 1000 + b"\0\1", 16_000, 1000)) == (16_000, 1000)
    with pytest.raises(TooLarge, match=f"{bmp_runs.MOST_RUNS} runs"):
        decode_image(_runs(b"\0\2\0\0" * (bmp_runs.MOST_RUNS + 1), 1000, 1000), LIMITS)
    with pytest.raises(DamagedData, match="truncated"):
        decode_image(_runs(b"\1\0\0\0" * 10, 100, 100), LIMITS)


def _runs(body: bytes, width: int, height: int) -> bytes:
    palette = np.array([[1, 2, 3], [200, 100, 50]], np.uint8)
    data = bytearray(bmp(body, 8, kind=1, palette=palette))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("upwards", [True, False])
def test_runs_of_several_strips(upwards: bool) -> None:
    """A run in each of some rows, among them the last and first ones of strips, and rows left out between them."""
    drawn = [0, 1, 127, 128, 129, 255, 256, 700, 701, 767]  # of 768 rows; a jump goes 255 on at most
    body, row = b"", 0
    for n, wanted in enumerate(drawn):
        while row < wanted:
            step = min(255, wanted - row)
            body += bytes([0, 2, 0, step])
            row += step
        body += bytes([n % 20 + 1, 1]) + b"\0\0"
        row += 1
    expected = np.full((768, 24, 3), 255, np.uint8)
    for n, wanted in enumerate(drawn):
        expected[wanted, : n % 20 + 1] = (200, 100, 50)
    for end in (b"\0\1", b""):  # the last row is the image's last: nothing need say so
        image = decode_image(_runs(body + end, 24, 768 if upwards else -768), LIMITS).image
        assert np.array_equal(np.asarray(image), expected[::-1] if upwards else expected)
    image = decode_image(_runs(body[:-4] + b"\0\1", 24, 768), LIMITS).image
    expected[767] = 255
    assert np.array_equal(np.asarray(image), expected[::-1])


def test_runs_take_no_copy_of_the_image() -> None:
    """Four bytes a pixel, those of the image itself; in a process of its own, for its peak is what counts."""
    code = """if True:
        import resource
        from crosslook.decoding import decode_image
        from tests.crosslook.decoding.test_bounds import _runs
        data = _runs(b"\\1\\0\\0\\0" * 4000 + b"\\0\\1", 4000, 4000)
        decode_image(_runs(b"\\1\\0\\0\\0" * 9 + b"\\0\\1", 9, 9))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        decode_image(data)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 4000**2)
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 5


@pytest.mark.parametrize(
    ("data", "large"),
    [
        (saved(RGB, "PNG"), True),
        (saved(RGB, "GIF"), True),
        (saved(RGB, "BMP"), True),
        (saved(RGB, "TIFF"), True),
        (saved(RGB, "WEBP"), True),
        (saved(RGB, "JPEG"), False),
        (saved(RGB, "JPEG", progressive=True), True),
    ],
    ids=["PNG", "GIF", "BMP", "TIFF", "WebP", "JPEG", "progressive JPEG"],
)
def test_a_large_image_is_told_before_it_is_decoded(data: bytes, large: bool) -> None:
    """By what is in memory at once: an eighth of a JPEG's sides, unless it comes in several scans."""
    limits = ImageLimits(1 << 20, 1920, 100, 1, large=959)  # 40 x 24 pixels, of WebP twice as many
    if large:
        with pytest.raises(Large):
            decode_image(data, limits, side=3)
    else:
        assert decode_image(data, limits, side=3).image.size == (5, 3)
        with pytest.raises(Large):
            decode_image(data, limits)
        with pytest.raises(Large):
            decode_image(data, ImageLimits(1 << 20, 1920, 100, 1, large=14), side=3)  # 5 x 3
    assert decode_image(data, ImageLimits(1 << 20, 1920, 100, 1, large=1920)).width == 40


def test_a_jpeg_whose_channels_come_one_after_the_other_is_held_whole() -> None:
    """Without being progressive: its first scan has one channel of three."""
    data = saved(RGB, "JPEG")
    at = data.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", data, at + 2)
    scan = b"\xff\xda" + struct.pack(">HBBB", 8, 1, 1, 0) + b"\0\x3f\0"
    with pytest.raises(Large):
        decode_image(data[:at] + scan + data[at + 2 + length :], ImageLimits(1 << 20, 960, 100, 1, large=959), side=3)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_formats_whose_decoders_take_twice_as_much_may_have_half(kind: str) -> None:
    data = saved(Image.new("RGB", (100, 81)), kind)
    assert decode_image(data, ImageLimits(1 << 20, 16_200, 1000, 1)).width == 100
    with pytest.raises(TooLarge) as caught:
        decode_image(data, ImageLimits(1 << 20, 16_199, 1000, 1))
    assert caught.value.detail == {"max_pixels": 8099, "max_side": 1000, "width": 100, "height": 81}


def test_an_avif_of_too_many_boxes() -> None:
    data = saved(RGB, "AVIF")
    at = data.index(b"meta") - 4
    (length,) = struct.unpack_from(">I", data, at)
    padded = struct.pack(">I", length + bmff.MOST_HEADER) + data[at + 4 : at + length] + bytes(bmff.MOST_HEADER)
    with pytest.raises(TooLarge, match="description"):
        decode_image(data[:at] + padded + data[at + length :], LIMITS)


def test_exif_of_a_container_is_not_read() -> None:
    """What turns is the container's own; a block of EXIF that Pillow would copy tag by tag is hidden from it."""
    tags = Image.Exif()
    tags[0x010E], tags[0x0112] = "hidden", 6
    data = saved(RGB, "AVIF", exif=tags.tobytes())
    assert Image.open(io.BytesIO(data)).getexif()[0x010E] == "hidden"
    assert 0x010E not in Image.open(io.BytesIO(bmff.checked(data))).getexif()
    assert size_of(data) == (24, 40)  # Pillow wrote a turn of the container too


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_is_whole(progressive: bool, missing: int) -> None:
    data = saved(NOISE, "JPEG", progressive=progressive)
    assert np.array_equal(np.asarray(decode_image(data[:-missing]).image), made.shown(data))
    for cut in (4, 5, 6, 10, 40, len(data) // 2):
        with pytest.raises(DamagedData):
            decode_image(data[:-cut])


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_damage_of_a_chunk_that_is_needed(kind: bytes) -> None:
    data = bytearray(png(made.GREY % 2, 3, 8, chunk(b"PLTE", bytes(6))))
    at = data.index(kind)
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + length] ^= 1
    with pytest.raises(DamagedData, match="checksum"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''/>", "an SVG drawing"),
        (saved(RGB, "JPEG2000"), "a JPEG 2000 image"),
        (saved(RGB, "ICO"), "a Windows icon"),
        (saved(RGB, "PPM"), "a Netpbm image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a film"),
        (b"hello", "not known here"),
        (tiff([bytes(40 * 24 * 8)], bits=64, form=3), "grey, 1 x 64 bits, floating point"),
        (tiff([bytes(40 * 24 * 12)], bits=32, form=3, samples=3, photometric=2), "RGB, 3 x 32 bits, floating point"),
        (tiff([bytes(40 * 24 * 4)], bits=16, samples=2, more={338: (2,)}), "grey, 2 x 16 bits"),
        (tiff([bytes(40 * 24)], more={259: (34712,)}), "compression 34712"),
        (tiff([bytes(40 * 24 * 4)] * 4, bits=16, samples=4, planar=2, photometric=5), "CMYK, 4 x 16 bits"),
        (saved(RGB, "JPEG").replace(b"\xff\xc0", b"\xff\xc3"), "a lossless JPEG"),
        (saved(RGB, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "12 bits a sample"),
        (bmp([bytes(20)] * 24, 4, kind=4), "a JPEG inside of a BMP"),
        (bmp([bytes(20)] * 24, 1, kind=3, size=64), "as a fax"),
        (png(RGB, 2, 8, chunk(b"CgBI", bytes(4))), "Apple's own variety"),
    ],
)
def test_what_is_not_supported_is_named(data: bytes, what: str) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        decode_image(data)
    assert what in str(caught.value)
    assert (
        "support" in str(caught.value)
        or "known" in str(caught.value)
        or "alone" in str(caught.value)
        or "no PNG" in str(caught.value)
    )


def _programs() -> bytes:
    """A sound profile with a program of 300,000 steps, all of them the same 12 bytes."""
    whole = profiles.rgb_profile(profiles.SWAPPED)
    steps = 300_000
    step = b"matf\0\0\0\0" + struct.pack(">HH", 3, 3) + struct.pack(">12f", 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    program = b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, steps) + struct.pack(">II", 16 + 8 * steps, len(step)) * steps
    (count,) = struct.unpack_from(">I", whole, 128)
    rest = [list(struct.unpack_from(">4sII", whole, 132 + 12 * n)) for n in range(count)]
    table = b"".join(struct.pack(">4sII", name, at + 12, size) for name, at, size in rest)
    end = len(whole) + 12
    table += struct.pack(">4sII", b"D2B0", end, len(program) + len(step))
    data = whole[4:128] + struct.pack(">I", count + 1) + table + whole[132 + 12 * count :] + program + step
    return struct.pack(">I", len(data) + 4) + data


@pytest.mark.parametrize(
    "profile",
    [
        bytes(200),
        bytes(range(256)) * 40,
        profiles.rgb_profile(profiles.SWAPPED)[:150],
        profiles.rgb_profile(profiles.SWAPPED)[:12] + b"nmcl" + profiles.rgb_profile(profiles.SWAPPED)[16:],
        profiles.rgb_profile(profiles.SWAPPED)[:128] + b"\xff" * 400,
        profiles.cmyk_profile(),
        profiles.rgb_profile(profiles.SWAPPED) + bytes(colour.MOST_BYTES),
    ],
    ids=["zeros", "noise", "cut", "class", "tags", "of CMYK", "too large"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_hostile_profile_is_ignored(profile: bytes, kind: str) -> None:
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    made = decode_image(saved(RGB, kind, icc_profile=profile, **options)).image
    assert np.abs(np.asarray(made).astype(int) - RGB).mean() < 2


def test_programs_in_a_profile_are_not_run() -> None:
    """The rest of such a profile holds, as in a browser."""
    data = png(RGB, 2, 8, iccp(_programs()))
    expected = profiles.rgb_in_srgb(RGB, profiles.SWAPPED)
    assert np.abs(np.asarray(decode_image(data).image).astype(int) - expected).max() <= 2


def test_a_profile_that_is_srgb_leaves_every_pixel() -> None:
    profile = profiles.rgb_profile(profiles.SRGB, 2.2)
    assert colour.converter(profile, "RGB") is not None  # a gamma is not quite sRGB's curve
    from PIL import ImageCms

    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert colour.converter(same, "RGB") is None
