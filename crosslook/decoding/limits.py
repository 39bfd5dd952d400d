"""What an image may be, and the errors for those that are something else."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

MOST_PARTS = 1 << 17
"""Segments, chunks, blocks, strips or tiles of a file: even an 8-plane TIFF of 16,384 rows, each its own strip, has no
more."""


HALF = 2
"""Divides the pixels for formats whose decoders take 16 to 24 bytes for each, others up to 8: WebP, AVIF, HEIC."""


class DecodingError(ValueError):
    """A file that is no image to be shown. ``detail`` has the limits and sizes by name."""

    def __init__(self, message: str, **detail: object) -> None:
        super().__init__(message)
        self.detail = detail


class UnsupportedFormat(DecodingError):
    """No image, or one of a format or variety that is not read."""


class DamagedData(DecodingError):
    """A damaged file."""


class TooLarge(DecodingError):
    """More pixels, or more work, than allowed."""


class TooSmall(DecodingError):
    """A side of too few pixels."""


class Large(DecodingError):
    """Within the limits, but larger than `ImageLimits.large`."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be: bytes of its file, and pixels and sides as its header gives them.

    ``large``: of images that hold more pixels in memory `Large` is raised, for a caller who decodes few of these at
    once; None: of none.
    """

    file_bytes: int
    pixels: int
    side: int
    min_side: int
    large: int | None = None

    def check(self, width: int, height: int, *, of: str = "image", share: int = 1, held: int | None = None) -> None:
        """Raise unless an image of this size is allowed; ``share`` divides the pixels for a costly format. ``held``:
        pixels that are in memory at once, where these are fewer than all.

        Raises: `TooLarge`, `TooSmall`, `DamagedData` (no pixels at all), `Large`.
        """
        if width <= 0 or height <= 0:
            raise DamagedData("The image is damaged: its header gives it no size.")
        pixels = self.pixels // share
        if width * height > pixels or max(width, height) > self.side:
            message = f"The {of} has more than {pixels} pixels or a side of more than {self.side}."
            size = {"width": width, "height": height}
            raise TooLarge(message, max_pixels=pixels, max_side=self.side, **size)
        if min(width, height) < self.min_side:
            message = f"The image is {width}x{height} pixels; both sides must have at least {self.min_side}."
            raise TooSmall(message, width=width, height=height, min_side=self.min_side)
        if self.large is not None and share * (width * height if held is None else held) > self.large:
            raise Large(f"The {of} holds more than {self.large // share} pixels.")


UNLIMITED = ImageLimits(file_bytes=1 << 40, pixels=1 << 40, side=1 << 30, min_side=1)
"""For one's own files: Pillow's guard against decompression bombs still holds."""


@dataclass(slots=True)
class Decoded:
    """A decoded image before its rendering. ``width`` and ``height`` are the file's, before any turning; ``image``
    may be smaller where a JPEG was decoded at a fraction of its size. ``orientation`` is EXIF's, 1 to 8."""

    image: Image.Image
    width: int
    height: int
    orientation: int = 1


def too_many(parts: str, most: int = MOST_PARTS) -> TooLarge:
    """The error for a file of too many parts."""
    return TooLarge(f"The image has more than {most} {parts}.", **{f"max_{parts.split()[0]}": most})
