"""ICC profiles: colours as they were meant, in sRGB, as browsers show them.

Little CMS does the work (Pillow's ``ImageCms``), set to what browsers do: of a profile's tables the perceptual one, and
neither black nor white moved. A profile that is larger than 4 MiB, does not fit the image or cannot be read is ignored.
Format: ICC.1:2022.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache

from PIL import Image, ImageChops, ImageCms

MOST_BYTES = 1 << 22  # of a profile; those of printing presses have up to 3 MB
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_MOST_TAGS = 100  # Little CMS reads no more
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_PROBE_LEVELS = (0, 5, 20, 51, 102, 153, 204, 235, 255)

Convert = Callable[[Image.Image], Image.Image]


def converter(profile: bytes | None, mode: str) -> Convert | None:
    """What makes sRGB of images of a mode (RGB, L or CMYK) with a profile; None where nothing is to be done."""
    if not isinstance(profile, bytes) or not 132 <= len(profile) <= MOST_BYTES:
        return None
    if _SPACES.get(profile[16:20]) != mode or profile[12:16] not in _CLASSES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_reduced(profile)))
        exact = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        flags = ImageCms.Flags.NOWHITEONWHITEFIXUP | exact
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB", _INTENT, flags)
        if mode == "RGB" and _is_identity(transform):
            return None
        if mode == "L":  # by a table: Little CMS interpolates grey between too few levels
            levels = transform.apply(Image.frombytes("L", (256, 1), bytes(range(256))))
            tables = [band.tobytes() for band in levels.split()]
            return lambda image: Image.merge("RGB", [image.point(list(table)) for table in tables])
    except Exception:  # Little CMS and Pillow raise this and that for profiles that are none
        return None

    def convert(image: Image.Image) -> Image.Image:
        return transform.apply(image)

    return convert


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _reduced(profile: bytes) -> bytes:
    """The profile without what browsers do not go by: its tags D2B and B2D, which hold programs of any length, whose
    steps may all be the same few bytes of the file, so that 4 MB of them run for minutes; and of its tables from device
    to colour all but the first, A2B0."""
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > _MOST_TAGS:
        raise ValueError("too many tags")
    table = bytearray(profile)
    places = range(132, 132 + 12 * count, 12)
    unused = {b"D2B0", b"D2B1", b"D2B2", b"D2B3", b"B2D0", b"B2D1", b"B2D2", b"B2D3"}
    if any(profile[at : at + 4] == b"A2B0" for at in places):
        unused |= {b"A2B1", b"A2B2"}
    for at in places:
        if profile[at : at + 4] in unused:
            table[at : at + 4] = b"none"
    return bytes(table)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a profile is sRGB under whatever name, as most are: then the pixels stay, as they do in a browser."""
    probe = _probe()
    worst = ImageChops.difference(probe, transform.apply(probe)).getextrema()
    return all(high <= 1 for _, high in worst)  # type: ignore[misc] # three bands: pairs


@cache
def _probe() -> Image.Image:
    levels = _PROBE_LEVELS
    values = bytes(value for r in levels for g in levels for b in levels for value in (r, g, b))
    return Image.frombytes("RGB", (len(levels) ** 2, len(levels)), values)
