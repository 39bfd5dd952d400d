"""Files of every format x mode x depth x alpha x orientation x profile, made here, with the pixels that they stand for.

`MADE` names them. ``browser`` says how Chromium's made compares: "same"; "none", where it shows nothing; or what
is different there, and which of the two was chosen.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.crosslook.decoding import profiles

Array = np.ndarray
WIDTH, HEIGHT = 40, 24
_X, _Y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
RGB = np.stack([_X * 6 + 10, _Y * 10 + 5, 255 - _X * 3 - _Y * 4], axis=-1).astype(np.uint8)
RGB[:6, :10] = (250, 240, 230)
GREY = (_X * 5 + _Y * 2).astype(np.uint8)
ALPHA = np.clip(_X * 8 - 20, 0, 255).astype(np.uint8)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@dataclass(frozen=True)
class Made:
    """A file, the RGB pixels that it stands for, and how a browser's compare (see above)."""

    data: bytes
    pixels: Array
    browser: str = "same"


MADE: dict[str, Made] = {}


def rgb(grey: Array) -> Array:
    """Grey ``[height, width]`` as RGB."""
    return np.repeat(grey[..., None], 3, axis=-1)


def on_white(colours: Array, alpha: Array) -> Array:
    """Colours ``[.., 3]`` under an alpha of 0 to 255."""
    share = alpha[..., None] / 255.0
    return np.round(colours * share + 255 * (1 - share)).astype(np.uint8)


def turned(pixels: Array, orientation: int) -> Array:
    """What EXIF's orientation makes of rows and columns (EXIF 2.32, 4.6.4 A)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def exif(orientation: int) -> bytes:
    """A block of EXIF with this one tag."""
    entries = Image.Exif()
    entries[0x0112] = orientation
    return entries.tobytes()


def saved(pixels: Array | Image.Image, kind: str, **options: Any) -> bytes:
    """As Pillow writes it."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes) -> Array:
    """A lossy file's pixels as Pillow decodes them."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def chunk(kind: bytes, body: bytes, *, wrong: int = 0) -> bytes:
    """A chunk of PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def png(values: Array, colour: int, depth: int, *chunks: bytes, behind: bytes = b"") -> bytes:
    """A PNG of samples ``[height, width(, channels)]`` of any depth."""
    height, width = values.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.reshape(height, -1, 1).astype(np.uint8), axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), behind, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def iccp(profile: bytes) -> bytes:
    """The chunk of a profile."""
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


def _png() -> None:
    for depth in (1, 2, 4, 8, 16):
        most = 2**depth - 1
        grey = (GREY.astype(int) * most // 255).astype(np.uint16)
        as8 = rgb(np.round(grey * 255.0 / most).astype(np.uint8))
        MADE[f"PNG grey {depth}"] = Made(png(grey, 0, depth), as8)
        value = int(grey[12, 20])
        clear = on_white(as8, np.where(grey == value, 0, 255))
        MADE[f"PNG grey {depth} tRNS"] = Made(png(grey, 0, depth, chunk(b"tRNS", struct.pack(">H", value))), clear)
    for depth in (1, 2, 4, 8):
        index = (_X // 4 + _Y) % min(2**depth, 17)
        palette = RGB[::3, ::3].reshape(-1, 3)[:17]
        plte = chunk(b"PLTE", palette[: 2**depth].tobytes())
        alphas = np.array([0, 128, 255, 40] * 5)[: min(2**depth, 17)].astype(np.uint8)
        MADE[f"PNG palette {depth}"] = Made(png(index, 3, depth, plte), palette[index])
        data = png(index, 3, depth, plte, chunk(b"tRNS", alphas.tobytes()))
        MADE[f"PNG palette {depth} tRNS"] = Made(data, on_white(palette[index], alphas[index]))
    for depth, scale in ((8, 1), (16, 257)):
        deep, alpha = RGB.astype(int) * scale, ALPHA.astype(int) * scale
        grey = GREY.astype(int) * scale
        MADE[f"PNG RGB {depth}"] = Made(png(deep, 2, depth), RGB)
        one = deep.copy()
        one[3, 3] += depth == 16  # nearly the transparent colour, and it is not
        data = png(one, 2, depth, chunk(b"tRNS", struct.pack(">3H", *deep[3, 3])))
        clear = np.where((one == deep[3, 3]).all(axis=-1), 0, 255)
        MADE[f"PNG RGB {depth} tRNS"] = Made(data, on_white(RGB, clear))
        MADE[f"PNG RGBA {depth}"] = Made(png(np.dstack([deep, alpha]), 6, depth), on_white(RGB, ALPHA))
        MADE[f"PNG grey alpha {depth}"] = Made(png(np.dstack([grey, alpha]), 4, depth), on_white(rgb(GREY), ALPHA))
    for number in range(1, 9):
        MADE[f"PNG eXIf {number}"] = Made(png(RGB, 2, 8, chunk(b"eXIf", exif(number)[6:])), turned(RGB, number))
    late = png(RGB, 2, 8, behind=chunk(b"eXIf", exif(6)[6:]))
    MADE["PNG eXIf behind the pixels"] = Made(late, RGB)
    MADE["PNG XMP turned"] = Made(png(RGB, 2, 8, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), RGB)
    MADE["PNG damaged tEXt"] = Made(png(RGB, 2, 8, chunk(b"tEXt", b"a\0b", wrong=1)), RGB)
    MADE["PNG damaged tRNS"] = Made(png(RGB, 2, 8, chunk(b"tRNS", bytes(6), wrong=1)), RGB)
    MADE["PNG damaged profile"] = Made(png(RGB, 2, 8, iccp(bytes(range(256)) * 4)), RGB)
    MADE["PNG of an animation"] = Made(
        saved(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]), RGB
    )


def _profiles() -> None:
    cmyk = np.dstack([255 - RGB, GREY // 3]).astype(np.uint8)
    for name, matrix in (("P3", profiles.DISPLAY_P3), ("Adobe", profiles.ADOBE_RGB), ("swapped", profiles.SWAPPED)):
        profile, pixels = profiles.rgb_profile(matrix), profiles.rgb_in_srgb(RGB, matrix)
        MADE[f"PNG {name}"] = Made(png(RGB, 2, 8, iccp(profile)), pixels)
        MADE[f"PNG {name} alpha"] = Made(png(np.dstack([RGB, ALPHA]), 6, 8, iccp(profile)), on_white(pixels, ALPHA))
        MADE[f"WebP {name}"] = Made(saved(RGB, "WEBP", lossless=True, icc_profile=profile), pixels)
        MADE[f"TIFF {name}"] = Made(saved(RGB, "TIFF", icc_profile=profile), pixels, "none")
        jpeg = saved(RGB, "JPEG", quality=95, subsampling=0, icc_profile=profile, exif=exif(6))
        MADE[f"JPEG {name} turned"] = Made(jpeg, turned(profiles.rgb_in_srgb(shown(jpeg), matrix), 6))
        avif = saved(RGB, "AVIF", quality=95, subsampling="4:4:4", icc_profile=profile)
        MADE[f"AVIF {name}"] = Made(avif, profiles.rgb_in_srgb(shown(avif), matrix))
    palette = Image.fromarray(RGB).quantize(64)
    data = saved(palette, "PNG", icc_profile=profiles.rgb_profile(profiles.SWAPPED))
    MADE["PNG palette swapped"] = Made(data, profiles.rgb_in_srgb(np.asarray(palette.convert("RGB")), profiles.SWAPPED))
    MADE["PNG grey gamma 1"] = Made(png(GREY, 0, 8, iccp(profiles.grey_profile(1.0))), profiles.grey_in_srgb(GREY, 1.0))
    jpeg = saved(GREY, "JPEG", quality=95, icc_profile=profiles.grey_profile(1.0))
    MADE["JPEG grey gamma 1"] = Made(jpeg, profiles.grey_in_srgb(shown(jpeg)[..., 0], 1.0))
    MADE["PNG RGB with a profile of grey"] = Made(png(RGB, 2, 8, iccp(profiles.grey_profile(1.0))), RGB)
    press = Image.frombytes("CMYK", (WIDTH, HEIGHT), cmyk.tobytes())
    jpeg = saved(press, "JPEG", quality=95, icc_profile=profiles.cmyk_profile())
    inks = np.asarray(Image.open(io.BytesIO(jpeg)))
    reason = "Chromium shows black ink brownish where the profile's table has a grey: the table was chosen"
    MADE["JPEG CMYK press"] = Made(jpeg, profiles.cmyk_in_srgb(inks), reason)
    data = saved(press, "TIFF", icc_profile=profiles.cmyk_profile())
    MADE["TIFF CMYK press"] = Made(data, profiles.cmyk_in_srgb(cmyk), "none")
    jpeg = saved(press, "JPEG", quality=95)
    MADE["JPEG CMYK"] = Made(jpeg, shown(jpeg))


def _jpeg_webp_avif_gif() -> None:
    whole = saved(RGB, "JPEG", quality=95, subsampling=0)
    for number in range(1, 9):
        MADE[f"JPEG EXIF {number}"] = Made(
            saved(RGB, "JPEG", quality=95, subsampling=0, exif=exif(number)), turned(shown(whole), number)
        )
        avif = saved(RGB, "AVIF", quality=95, subsampling="4:4:4", exif=exif(number))
        plain = saved(RGB, "AVIF", quality=95, subsampling="4:4:4")
        MADE[f"AVIF {number}"] = Made(avif, turned(shown(plain), number))
        MADE[f"WebP EXIF {number}"] = Made(saved(RGB, "WEBP", lossless=True, exif=exif(number)), RGB)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    MADE["JPEG XMP turned"] = Made(whole[:2] + segment + whole[2:], shown(whole))
    MADE["WebP XMP turned"] = Made(saved(RGB, "WEBP", lossless=True, xmp=XMP), RGB)
    reason = "Chromium leaves out the last row of blocks of a small one, whose data are there: the data were chosen"
    MADE["JPEG without its end"] = Made(whole[:-2], shown(whole), reason)
    MADE["JPEG grey"] = Made(saved(GREY, "JPEG", quality=95), shown(saved(GREY, "JPEG", quality=95)))
    for options in ({"progressive": True}, {"subsampling": 2, "quality": 60}):
        data = saved(RGB, "JPEG", **options)
        MADE[f"JPEG {options}"] = Made(data, shown(data))
    rgba = np.dstack([RGB, ALPHA])
    MADE["WebP RGBA"] = Made(saved(rgba, "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA))
    lossy = saved(RGB, "WEBP", quality=90)
    MADE["WebP lossy"] = Made(lossy, shown(lossy))
    half = Image.new("RGBA", (WIDTH, HEIGHT))
    half.paste((255, 0, 0, 255), (20, 0, 40, 24))
    blue = Image.new("RGBA", (WIDTH, HEIGHT), "blue")
    red = on_white(np.broadcast_to(np.uint8([255, 0, 0]), RGB.shape), np.where(_X < 20, 0, 255))
    for kind, options in (("WEBP", {"lossless": True}), ("GIF", {})):
        data = saved(half, kind, save_all=True, append_images=[blue], duration=60_000, **options)
        MADE[f"{kind} animation, first frame half the canvas"] = Made(data, red)
    small = bytearray(saved(Image.new("P", (20, 24), 1), "GIF"))
    palette = small.index(b"!") if b"!" in small[13:] else 13
    small[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    at = bytes(small).index(b",", palette)
    small[at + 1 : at + 5] = struct.pack("<HH", 20, 0)
    colour = shown(saved(Image.new("P", (20, 24), 1), "GIF"))[0, 0]
    pixels = on_white(np.broadcast_to(colour, RGB.shape), np.where(_X < 20, 0, 255))
    MADE["GIF frame half its screen"] = Made(bytes(small), pixels)
    image = Image.fromarray(RGB).quantize(32)
    MADE["GIF"] = Made(saved(image, "GIF"), np.asarray(image.convert("RGB")))
    clear = on_white(np.asarray(image.convert("RGB")), np.where(np.asarray(image) == 3, 0, 255))
    MADE["GIF transparent"] = Made(saved(image, "GIF", transparency=3), clear)
    avif = saved(rgba, "AVIF", quality=100, subsampling="4:4:4")
    kept = np.asarray(Image.open(io.BytesIO(avif)))
    MADE["AVIF RGBA"] = Made(avif, on_white(kept[..., :3], kept[..., 3]))


_png()
_profiles()
_jpeg_webp_avif_gif()
