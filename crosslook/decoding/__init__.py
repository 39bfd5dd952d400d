"""The bytes of a file to the image as a browser shows it: one code for the server, the client and the overlay.

`decode_image` decodes; `rendered` makes the same of an image that Pillow has opened already. What they go by:

* the first frame of a file, laid on its canvas; of a TIFF the first page;
* turned as EXIF says in a JPEG, PNG or TIFF and as the container says in AVIF and HEIC; XMP and the EXIF of a WebP turn
  nothing, since no browser goes by them;
* an ICC profile is converted to sRGB, one that cannot be read is ignored;
* what is transparent is white;
* 16 and 32 bits become 8.

Needs Pillow, and for HEIC the package ``pi-heif``.
"""

from crosslook.decoding.limits import (
    DamagedData,
    DecodingError,
    ImageLimits,
    Large,
    TooLarge,
    TooSmall,
    UnsupportedFormat,
)
from crosslook.decoding.opening import RenderedImage, decode_image
from crosslook.decoding.rendering import rendered

__all__ = [
    "DamagedData",
    "DecodingError",
    "ImageLimits",
    "Large",
    "RenderedImage",
    "TooLarge",
    "TooSmall",
    "UnsupportedFormat",
    "decode_image",
    "rendered",
]
