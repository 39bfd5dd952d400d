"""Which format a file has, by its first bytes."""

from __future__ import annotations

import re

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
"""What is read."""

_READ = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    *((mark, "TIFF") for mark in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")),  # +: BigTIFF
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_OTHERS = (
    (rb"\x00{3}\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"\x00{3}\x0cJXL |\xff\x0a", "a JPEG XL image"),
    (rb"II\xbc\x01", "a JPEG XR image"),
    (rb"%PDF-", "a PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing"),
    (rb"\s*<(!doctype html|html)", "an HTML page"),
    (rb"8BPS", "a Photoshop file"),
    (rb"\x00\x00\x01\x00", "a Windows icon"),
    (rb"\x00\x00\x02\x00", "a Windows cursor or a TGA image"),
    (rb"icns", "an Apple icon"),
    (rb"P[1-7Ff]\s", "a Netpbm image"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance image"),
    (rb"v/1\x01", "an OpenEXR image"),
    (rb"DDS ", "a DirectDraw texture"),
    (rb"qoif", "a QOI image"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"....ftyp", "a film or another ISO media file"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM film"),
    (rb"RIFF....AVI ", "an AVI film"),
    (rb"RIFF....WAVE|ID3|OggS|fLaC", "a sound file"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
)


def kind_of(data: bytes) -> str | None:
    """The name in `FORMATS`, None for anything else."""
    for mark, name in _READ:
        if data.startswith(mark):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and data[6:10] == b"\0\0\0\0":  # two letters alone might begin a text
        return "BMP"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4]), 1024)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


def describe(data: bytes) -> str:
    """What a file of none of the formats is, as the end of a sentence."""
    for pattern, name in _OTHERS:
        if re.match(pattern, data[:1024], re.DOTALL | re.IGNORECASE):
            return name
    return "of a format that is not known here"
