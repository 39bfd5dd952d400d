"""The orientation that EXIF gives. Read here and not by Pillow, which keeps a copy of every tag's value: tags of a
hostile file that share their bytes would fill the memory. Format: TIFF 6.0, section 2, and EXIF 2.32, 4.6.4."""

from __future__ import annotations

import struct

from PIL import Image

_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of an orientation upright."""


def orientation_of(exif: bytes) -> int:
    """The orientation in a block of EXIF data, 1 where there is none or it cannot be read."""
    data = exif.removeprefix(b"Exif\0\0")
    if data[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", data, at)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:  # broken metadata does not make the pixels wrong
        pass
    return 1


def orientation_of_image(image: Image.Image) -> int:
    """The orientation of an image that Pillow opened. Pillow itself also goes by XMP, and by the EXIF of a WebP."""
    exif = image.info.get("exif")
    if image.format == "WEBP" or image.format == "TIFF":  # Pillow turns a TIFF while it loads it
        return 1
    if isinstance(exif, bytes):
        return orientation_of(exif)
    if any(key in image.info for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")):
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in UPRIGHT else 1
