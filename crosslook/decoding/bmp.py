"""BMP, read here: Pillow knows some kinds fewer than browsers, and its run-length decoder takes time for every pixel
where this one takes it for every run. Format: Microsoft's BITMAPINFOHEADER to BITMAPV5HEADER, IBM's OS/2 1 and 2."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image, ImageMath

from crosslook.decoding.bmp_runs import unpack
from crosslook.decoding.limits import DamagedData, Decoded, ImageLimits, UnsupportedFormat
from crosslook.decoding.rendering import strips

_RGB, _RLE8, _RLE4, _FIELDS, _JPEG, _PNG, _ALPHA_FIELDS = range(7)
_RLE24 = -24  # OS/2's number for it is Windows' for JPEG
_WINDOWS = (40, 52, 56, 108, 124)  # sizes of headers; the others up to 64 are OS/2's
_PALETTES = {1: "P;1", 2: "P;2", 4: "P;4", 8: "P"}
_DIRECT = {16: "BGR;15", 24: "BGR", 32: "BGRX"}
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_RLE_BITS = {_RLE8: 8, _RLE4: 4, _RLE24: 24}


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    upwards: bool  # the first row is the lowest one
    bits: int
    kind: int
    palette: bytes  # RGB
    masks: tuple[int, int, int, int]  # red, green, blue, alpha
    pixels: int  # where they begin


def read(data: bytes, limits: ImageLimits, side: int | None) -> Decoded:
    """The image. Pixels that runs leave out are transparent. Raises `DamagedData` for an unreadable header."""
    del side  # no smaller sizes inside
    try:
        header = _header(data)
    except struct.error:
        raise DamagedData("The image is damaged: its header is unreadable.") from None
    limits.check(header.width, header.height)
    if header.kind in _RLE_BITS:
        image = _from_runs(data, header)
    elif header.bits <= 8:
        image = _raw("P", data, header, _PALETTES[header.bits])
        image.putpalette(header.palette.ljust(768, b"\0"))  # colours that are missing are black
    elif header.kind == _RGB or header.masks == _MASKS.get(header.bits):
        image = _raw("RGB", data, header, _DIRECT[header.bits])
    else:
        image = _from_fields(data, header)
    return Decoded(image, header.width, header.height)


def _header(data: bytes) -> _Header:
    pixels, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        kind = used = 0
        entry, masks_at = 3, 0
    elif 16 <= size <= 64 or size in _WINDOWS:
        head = data[14 : 14 + size].ljust(124, b"\0")
        width, height, _, bits, kind = struct.unpack_from("<iiHHI", head, 4)
        (used,) = struct.unpack_from("<I", head, 32)
        if size not in _WINDOWS and kind == 4:
            kind = _RLE24
        elif size not in _WINDOWS and kind > 2:
            raise UnsupportedFormat("The image is a BMP compressed as a fax, which is not supported.")
        entry, masks_at = 4, 54
    else:
        raise UnsupportedFormat(f"The image is a BMP with a header of {size} bytes, which is not known.")
    if kind in (_JPEG, _PNG):
        raise UnsupportedFormat(f"The image is a {'JPEG' if kind == _JPEG else 'PNG'} inside of a BMP: send it alone.")
    known = kind in _RLE_BITS and bits == _RLE_BITS[kind]
    known |= kind == _RGB and (bits in _PALETTES or bits in _DIRECT)
    known |= kind in (_FIELDS, _ALPHA_FIELDS) and bits in _MASKS
    if not known:
        raise UnsupportedFormat(
            f"The image is a BMP of {bits} bits a pixel and compression {kind}, which is not known."
        )
    masks, table = (0, 0, 0, 0), 14 + size
    if kind in (_FIELDS, _ALPHA_FIELDS):
        count = 4 if size >= 56 or kind == _ALPHA_FIELDS else 3
        red, green, blue, *alpha = struct.unpack_from(f"<{count}I", data, masks_at)
        masks = (red, green, blue, alpha[0] if alpha else 0)
        table += 4 * count if size < 52 else 0
    colours = min(used or 1 << bits, 1 << bits) if bits <= 8 else 0
    end = table + colours * entry
    if table < pixels < end:
        end = table + (pixels - table) // entry * entry
    palette = b"".join(data[at + 2 : at - 1 if at else None : -1] for at in range(table, end, entry))
    start = pixels if pixels >= table else end
    return _Header(width, abs(height), height >= 0, bits, kind, palette, masks, start)


def _raw(mode: str, data: bytes, header: _Header, rawmode: str) -> Image.Image:
    stride = (header.width * header.bits + 31) // 32 * 4
    if len(data) - header.pixels < stride * (header.height - 1) + (header.width * header.bits + 7) // 8:
        raise DamagedData("The image is truncated.")
    rows = data[header.pixels : header.pixels + stride * header.height].ljust(stride * header.height, b"\0")
    size = header.width, header.height
    return Image.frombytes(mode, size, rows, "raw", rawmode, stride, -1 if header.upwards else 1)


def _from_fields(data: bytes, header: _Header) -> Image.Image:
    """16 or 32 bits of which masks say which are which colour."""
    deep = _raw("I;16", data, header, "I;16") if header.bits == 16 else _raw("I", data, header, "I;32S")
    image = Image.new("RGBA" if header.masks[3] else "RGB", deep.size)
    for top, strip in strips(deep):
        words = strip.convert("I")
        bands = [_field(words, mask) for mask in header.masks if mask or len(image.getbands()) == 3]
        image.paste(Image.merge(image.mode, bands[: len(image.getbands())]), (0, top))
    if header.masks[3] and image.getchannel("A").getextrema() == (0, 0):  # written by who knows no alpha
        image.putalpha(255)
    return image


def _field(words: Image.Image, mask: int) -> Image.Image:
    if mask == 0:
        return Image.new("L", words.size)
    shift = (mask & -mask).bit_length() - 1
    bits = (mask >> shift).bit_length()
    shift, highest = shift + max(0, bits - 8), (1 << min(bits, 8)) - 1
    levels: Image.Image = ImageMath.lambda_eval(
        lambda given: (((given["words"] >> shift) & highest) * 510 + highest) / (2 * highest), words=words
    )
    return levels.convert("L")


def _from_runs(data: bytes, header: _Header) -> Image.Image:
    """On white, strip by strip: the runs of all would be a copy of the whole."""
    width, height = header.width, header.height
    image = Image.new("RGB", (width, height), "white")
    for top, pixels, drawn in unpack(data, header.pixels, width, height, header.bits):
        rows = len(drawn) // width
        if header.bits == 24:
            strip = Image.frombytes("RGB", (width, rows), bytes(pixels), "raw", "BGR")
        else:
            strip = Image.frombytes("P", (width, rows), bytes(pixels))
            strip.putpalette(header.palette.ljust(768, b"\0"))
        mask = Image.frombytes("L", (width, rows), bytes(drawn))
        if header.upwards:
            strip, mask = (layer.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for layer in (strip, mask))
        image.paste(strip.convert("RGB"), (0, height - top - rows if header.upwards else top), mask)
    return image
