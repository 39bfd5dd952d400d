"""Untrusted bytes: every format and mode that is taken, every kind of damage that is not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from app.errors import RequestError
from app.intake import decode
from app.intake.decode import ImageLimits, RenderedImage, open_image
from app.intake.images import in_original, loader
from model.compact.preprocess import Squash
from model.interface import Geometry, Region
from tests.app.conftest import encoded
from tests.app.servers import ROOT

LIMITS = ImageLimits(file_bytes=20 * 1024 * 1024, pixels=50_000_000, side=16_384, min_side=8)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def opened(data: bytes, **options: int) -> RenderedImage:
    """Decode with the usual limits."""
    return open_image(data, LIMITS, **options)


def refused(data: bytes, limits: ImageLimits = LIMITS) -> str:
    """The code with which the bytes are refused."""
    with pytest.raises(RequestError) as caught:
        open_image(data, limits)
    assert caught.value.param == "image"
    return caught.value.code


def scene(mode: str = "RGB") -> Image.Image:
    """A dark image with a bright upper left corner, 40x24, in any mode."""
    image = Image.new("RGB", (40, 24), (20, 30, 40))
    image.paste((250, 240, 230), (0, 0, 10, 6))
    return image.convert(mode)


def corner_is_bright(image: Image.Image, corner: tuple[int, int] = (0, 0)) -> bool:
    """Whether the bright corner is where it should be, and only there."""
    values = np.asarray(image.convert("L"), dtype=float)
    cells = {
        (0, 0): values[:4, :4],
        (1, 0): values[:4, -4:],
        (0, 1): values[-4:, :4],
        (1, 1): values[-4:, -4:],
    }
    return all(bool(cell.mean() > 128) == (place == corner) for place, cell in cells.items())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind: str) -> None:
    """The six formats."""
    image = opened(encoded(scene(), kind))
    assert image.image.mode == "RGB"
    assert (image.width, image.height) == image.image.size == (40, 24)
    assert corner_is_bright(image.image)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")],
        *[("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")],
        *[("JPEG", mode) for mode in ("L", "CMYK", "YCbCr")],
        *[("WEBP", mode) for mode in ("RGBA", "LA")],
        *[("GIF", mode) for mode in ("L", "P", "1")],
        *[("BMP", mode) for mode in ("1", "L", "P", "RGBA")],
    ],
)
def test_modes(kind: str, mode: str) -> None:
    """Every mode becomes RGB and keeps its light and dark."""
    if mode.startswith("I"):
        deep = np.asarray(scene("L")).astype(np.uint16) * 257
        image = Image.fromarray(deep if mode == "I;16" else deep.astype(np.int32))
    elif mode == "LAB":
        image = Image.merge("LAB", [scene("L"), Image.new("L", (40, 24)), Image.new("L", (40, 24))])
    else:
        image = scene(mode)
    assert image.mode == mode
    decoded = opened(encoded(image, kind)).image
    assert decoded.mode == "RGB"
    assert corner_is_bright(decoded)


def test_alpha_is_flattened_on_white() -> None:
    """What is transparent is white, whatever colour lies beneath; also with a transparent palette entry."""
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert opened(encoded(clear)).image.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for kind in ("PNG", "GIF"):
        assert opened(encoded(palette, kind, transparency=0)).image.getpixel((3, 3)) == (255, 255, 255)
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert opened(encoded(half)).image.getpixel((3, 3)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_large_image_is_flattened_without_copies_of_the_whole(mode: str) -> None:
    """Eight bytes a pixel, as docs/operations.md says; in a process of its own, for its peak is what counts."""
    code = f"""if True:
        import resource
        from PIL import Image
        from crosslook.decoding.rendering import to_rgb
        to_rgb(Image.new({mode!r}, (9, 9)))
        image = Image.new({mode!r}, (4000, 4000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        to_rgb(image)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 4000**2)
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 6  # beside the image itself; the result is four of them


def test_deep_images_of_several_strips() -> None:
    """The scale is that of the whole image, and rows stay where they are."""
    values = np.linspace(0, 200, 400 * 10, dtype=np.float32).reshape(400, 10)
    image = np.asarray(opened(encoded(Image.fromarray(values), "TIFF")).image)
    assert np.abs(image[..., 0] - values).max() <= 0.51


def test_a_gif_gives_its_first_frame() -> None:
    """Later frames are ignored."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert opened(data).image.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (4, (0, 1)), (5, (0, 0)), (6, (1, 0)), (7, (1, 1)), (8, (0, 1))],
)
def test_exif_rotation(kind: str, orientation: int, corner: tuple[int, int]) -> None:
    """The eight orientations: the corner goes where the camera said, and the sizes are those after rotation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = opened(encoded(scene(), kind, exif=exif))
    assert (image.width, image.height) == image.image.size == ((40, 24) if orientation < 5 else (24, 40))
    assert corner_is_bright(image.image, corner)


def test_broken_exif_does_no_harm() -> None:
    """Metadata that cannot be read leaves the image as it is."""
    data = encoded(scene(), "JPEG", exif=b"Exif\x00\x00" + b"\xff" * 40)
    assert opened(data).image.size == (40, 24)


def test_large_jpegs_are_decoded_smaller_but_reported_whole() -> None:
    """The decoder's own scaling; width, height and the region are the original's, also after a rotation."""
    big = scene().resize((1603, 1001))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = opened(encoded(big, "JPEG", exif=exif), side=200)
    assert (image.width, image.height) == (1001, 1603)
    assert image.image.size == (251, 401)
    pixels = loader(encoded(big, "JPEG", exif=exif), LIMITS)(Squash(64, 4, 4))
    assert (pixels.geometry.width, pixels.geometry.height) == (1001, 1603)
    assert pixels.geometry.region == Region(0.0, 0.0, 1001.0, 1603.0)
    assert opened(encoded(big, "PNG"), side=200).image.size == (1603, 1001)


def test_geometry_in_pixels_of_the_original() -> None:
    """A crop or a padding of the smaller image is the same crop or padding of the original."""
    small = Geometry(100, 50, 2, 2, Region(-10.0, 0.0, 60.0, 50.0))
    scaled = in_original(small, 401, 200)
    assert (scaled.width, scaled.height) == (401, 200)
    assert scaled.region == Region(pytest.approx(-40.1), 0.0, pytest.approx(240.6), 200.0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncation(kind: str) -> None:
    """Cut anywhere, an image is either refused or (where only padding is missing) decoded; never anything else."""
    noise = np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for percent in range(0, 100, 5):
        code = refused(data[: len(data) * percent // 100])
        assert code in ("image_broken", "unsupported_image") if percent < 5 else code == "image_broken"


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.4", b"\x00" * 1000, b"\x7fELF", b"PK\x03\x04"])
def test_no_image(data: bytes) -> None:
    """Bytes of no supported format."""
    assert refused(data) == "unsupported_image"


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000"])
def test_unsupported_formats(kind: str) -> None:
    """Formats that Pillow reads but this service does not."""
    assert refused(encoded(scene(), kind)) == "unsupported_image"


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(size: tuple[int, int]) -> None:
    """A side below the minimum."""
    assert refused(encoded(Image.new("RGB", size))) == "image_too_small"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_huge_headers_are_refused_before_decoding() -> None:
    """The cap on pixels and sides is read from the header."""
    decode.configure(LIMITS)
    assert refused(png_header(30_000, 30_000)) == "image_too_large"
    assert refused(png_header(2_000_000_000, 2_000_000_000)) == "image_too_large"
    assert refused(png_header(20_000, 10)) == "image_too_large"
    assert refused(png_header(8_000, 8_000)) == "image_too_large"
    webp = bytearray(encoded(Image.new("RGBA", (16, 16)), "WEBP", exif=b"Exif\x00\x00"))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    assert refused(bytes(webp)) == "image_too_large"


def test_a_bomb_of_zeros_is_refused_by_its_size() -> None:
    """A few kilobytes that would become hundreds of megabytes."""
    small = ImageLimits(file_bytes=10**6, pixels=10_000, side=1000, min_side=8)
    data = encoded(Image.new("L", (900, 900)))
    assert len(data) < 5000
    assert refused(data, small) == "image_too_large"


def test_a_jpeg_with_a_second_image_behind_it() -> None:
    """Phones append a second image (MPO): the first counts."""
    buffer = io.BytesIO()
    scene().save(buffer, "MPO", save_all=True, append_images=[scene().transpose(Image.Transpose.ROTATE_180)])
    image = opened(buffer.getvalue())
    assert corner_is_bright(image.image)


def with_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan stands there several times more."""
    data = encoded(scene("L"), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * more + data[-2:]


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each is a pass over the whole image, for a few bytes. Six are there as encoded."""
    assert opened(with_scans(58)).image.size == (40, 24)
    assert refused(with_scans(59)) == refused(with_scans(500)) == "image_too_large"
    fill = with_scans(500).replace(b"\xff\xda", b"\xff\xff\xda")  # a marker may have any number of these before it
    assert refused(fill) == "image_too_large"


def test_what_looks_like_scans_in_a_photograph() -> None:
    """Metadata, a thumbnail inside it, and whatever a camera appends (a second image, a video) hold the same bytes."""
    many = b"\xff\xda\x00\x08" * 1000
    data = encoded(scene(), "JPEG", progressive=True, comment=many, exif=b"Exif\0\0" + many) + many
    assert data.count(b"\xff\xda") > 3000
    assert opened(data).image.size == (40, 24)


def test_a_jpeg_of_millions_of_segments_is_refused() -> None:
    """Five million empty comments: seconds, and 440 MB of lists."""
    data = encoded(scene(), "JPEG")
    assert opened(data[:2] + b"\xff\xfe\x00\x02" * 1000 + data[2:]).image.size == (40, 24)
    assert refused(data[:2] + b"\xff\xfe\x00\x02" * 200_000 + data[2:]) == "image_too_large"


@pytest.mark.parametrize("blocks", [b"!\xfe" + b"\x01a" * 200_000 + b"\0", b"!\xfe\0" * 200_000, b"\0" * 200_000])
def test_a_gif_of_millions_of_blocks_is_refused(blocks: bytes) -> None:
    """In one comment, in many, or outside of any; a comment as encoders write it is none of that."""
    data = encoded(scene("P"), "GIF", comment=b"x" * 100_000)
    assert corner_is_bright(opened(data).image)
    at = data.index(b"!\xfe")
    assert refused(data[:at] + blocks + data[at:]) == "image_too_large"


def tiff(*tags: tuple[int, int, int, bytes], order: str = "<", big: bool = False) -> bytes:
    """A grey TIFF of 64 x 64 pixels, deflated, with more tags (number, type, count, value); a value that does not fit
    its entry stands behind the directory, and the pixels behind that."""
    (wide, form), pixels = (8, "Q") if big else (4, "I"), zlib.compress(bytes(64 * 64))
    sizes = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1), (279, len(pixels)), (325, len(pixels))]
    own = [(number, 3, 1, struct.pack(order + "H", value)) for number, value in sizes]
    entries = sorted([*own, *tags, (273, 4, 1, b""), (324, 4, 1, b"")], key=lambda tag: tag[0])
    if any(tag[0] == 322 for tag in tags):  # tiles have no strips
        entries = [tag for tag in entries if tag[0] not in (273, 278, 279)]
    else:
        entries = [tag for tag in entries if tag[0] not in (324, 325)]
    directory = 16 if big else 8
    behind = directory + (8 if big else 2) + len(entries) * (20 if big else 12) + wide
    longer = b"".join(value for *_, value in entries if len(value) > wide)
    body, at = b"", behind
    for number, kind, count, value in entries:
        field = value
        if number in (273, 324) and not value:
            field = struct.pack(order + "I", behind + len(longer))
        elif len(value) > wide:
            field, at = struct.pack(order + form, at), at + len(value)
        body += struct.pack(order + "HH" + form, number, kind, count) + field.ljust(wide, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQQ", 8, 0, 16, len(entries)) if big else struct.pack(order + "IH", 8, len(entries))
    return head + body + bytes(wide) + longer + pixels


def tile(width: int, length: int, *, kind: int = 4, form: str = "<I") -> list[tuple[int, int, int, bytes]]:
    """The tags of a tile's size."""
    return [(322, kind, 1, struct.pack(form, width)), (323, kind, 1, struct.pack(form, length))]


def test_the_tiles_of_a_tiff_keep_to_the_limits() -> None:
    """libtiff allocates a whole tile: 2 GB for a small image with tiles of 32000 x 22000."""
    for data in (tiff(*tile(64, 64)), tiff(*tile(64, 64), big=True), tiff(*tile(64, 64, form=">I"), order=">")):
        assert opened(data).image.size == (64, 64)
    for width, length in ((16_384, 16_000), (20_000, 16), (16, 20_000)):
        assert refused(tiff(*tile(width, length))) == "image_too_large"
        assert refused(tiff(*tile(width, length), big=True)) == "image_too_large"
        assert refused(tiff(*tile(width, length, form=">I"), order=">")) == "image_too_large"
    twice = [tag for pair in zip(tile(64, 64), tile(16_384, 16_000), strict=True) for tag in pair]
    assert opened(tiff(*twice)).image.size == (64, 64)  # the first of two counts, and libtiff sees no other
    for kind, form in ((9, "<i"), (11, "<f"), (13, "<I"), (16, "<Q"), (17, "<q")):  # Pillow does not know the last
        assert refused(tiff(*tile(16_384, 16_000, kind=kind, form=form))) == "image_broken"


def test_the_strips_of_a_tiff() -> None:
    """One that claims more rows than there are does no harm; millions of them would take 20 s and a gigabyte."""
    for rows in (64, 16_000, 2**32 - 1):
        assert opened(tiff((278, 4, 1, struct.pack("<I", rows)))).image.size == (64, 64)
    data = bytearray(tiff())
    at = data.index(struct.pack("<HHI", 273, 4, 1))
    data[at + 4 : at + 8] = struct.pack("<I", 5_000_000)
    assert refused(bytes(data)) == "image_too_large"
