"""An image of any mode to RGB, upright, on white and in sRGB. In strips: what is made on the way of a whole image would
be several copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageChops, ImageMath

from crosslook.decoding.colour import converter
from crosslook.decoding.exif import UPRIGHT, orientation_of_image

STRIP = 128
"""Rows that are converted at once."""
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN = 65535


def rendered(image: Image.Image) -> Image.Image:
    """The RGB image that a browser would show for an image that Pillow opened.

    Raises: ValueError for a mode that has no RGB meaning; OSError as Pillow's ``load`` does.
    """
    frame = frame_box(image)
    image.load()
    return turned(to_rgb(on_canvas(image, frame)), orientation_of_image(image))


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright, by EXIF's number."""
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def frame_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Where a GIF's first frame lies, before it is loaded."""
    if image.format != "GIF" or not getattr(image, "tile", None) or image.tell() != 0:
        return None
    box: tuple[int, int, int, int] | None = image.tile[0].extents  # type: ignore[attr-defined]
    return box


def on_canvas(image: Image.Image, frame: tuple[int, int, int, int] | None) -> Image.Image:
    """A frame that does not cover its canvas, with the rest transparent: Pillow paints it with the first colour."""
    if frame is None or frame == (0, 0, *image.size):
        return image
    canvas = Image.new("RGBA", image.size, (0, 0, 0, 0))
    canvas.paste(image.crop(frame).convert("RGBA"), frame)
    return canvas


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image in RGB: its profile applied, alpha on white, 16 and 32 bits in 8.

    Raises: ValueError for a mode that has no RGB meaning.
    """
    clear, profile = image.info.get("transparency"), image.info.get("icc_profile")
    if is_deep(image):
        mask = ImageChops.invert(_equal(image, clear)) if isinstance(clear, int) else None
        image, clear = deep_to_grey(image), None
        if mask is not None:
            image.putalpha(mask)
    has_alpha = image.mode in _ALPHA or clear is not None
    space = {"CMYK": "CMYK", "L": "L", "LA": "L", "La": "L", "1": "L"}.get(image.mode, "RGB")
    convert = converter(profile, space)
    if convert is None and not has_alpha:
        return image if image.mode == "RGB" else image.convert("RGB")
    flat = Image.new("RGB", image.size)
    for top, strip in strips(image):
        colours, alpha = _split(strip, space, has_alpha)
        colours = convert(colours) if convert else colours.convert("RGB")
        if alpha is not None:
            colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
        flat.paste(colours, (0, top))
    return flat


def _split(strip: Image.Image, space: str, has_alpha: bool) -> tuple[Image.Image, Image.Image | None]:
    """Colours in RGB, L or CMYK, and the alpha."""
    if not has_alpha:
        return strip if strip.mode == space else strip.convert(space), None
    if strip.mode == "La":  # Pillow makes nothing else of it
        strip = strip.convert("LA")
    both = strip.convert("RGBA")
    alpha = both.getchannel("A")
    return (both.getchannel("R") if space == "L" else both.convert("RGB")), alpha


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in pieces, with their first rows."""
    for top in range(0, image.height, STRIP):
        yield top, image.crop((0, top, image.width, min(top + STRIP, image.height)))


def is_deep(image: Image.Image) -> bool:
    """Whether an image has 16 or 32 bits a pixel. Pillow's own ``convert`` cuts these off at 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_to_grey(image: Image.Image, *, inverted: bool = False) -> Image.Image:
    """A deep image in 8 bits, L. ``inverted`` where white is 0.

    16 bits are 0 to 65535, or to what a TIFF says is its highest (12 bits: 4095). Of 32 bits the highest value decides:
    floats up to 1 and numbers up to 255 are taken for such, all others for 16 bits.
    """
    tags: Any = getattr(image, "tag_v2", {})
    white = _white(image.mode, tags)
    if image.mode in ("I", "F"):
        highest = max(_finite(strip).getextrema()[1] for _, strip in strips(image))
        if image.mode == "F" and highest <= 1.0:  # type: ignore[operator] # one band: two numbers
            white = 1.0
        elif highest <= 255.0:  # type: ignore[operator]
            white = 255.0
    inverted |= tags.get(262) == 0
    scale, offset = (-255.0 / white, 255.5) if inverted else (255.0 / white, 0.5)
    grey = Image.new("L", image.size)
    for top, strip in strips(image):
        level = _finite(strip).point(lambda value: value * scale + offset)
        grey.paste(level.convert("L"), (0, top))  # cuts off decimals, and what is beyond 0 to 255
    return grey


def _white(mode: str, tags: Any) -> float:
    """The value of white of 16 bits: BitsPerSample (258) and MaxSampleValue (281) of a TIFF may have a lower one."""
    bits, highest = tags.get(258, (16,)), tags.get(281, (_SIXTEEN,))
    white = min(_SIXTEEN, 2 ** max(bits) - 1, max(highest)) if mode.startswith("I;16") else _SIXTEEN
    return float(white if white > 255 else _SIXTEEN)


def _finite(image: Image.Image) -> Image.Image:
    """Floats of 0 to 65535. In this order the comparisons make 0 of NaN."""
    values: Image.Image = ImageMath.lambda_eval(
        lambda given: given["min"](given["max"](given["values"], 0.0), 65535.0), values=image.convert("F")
    )
    return values


def _equal(image: Image.Image, value: int) -> Image.Image:
    """A mask, 255 where a deep image has a value."""
    mask = Image.new("L", image.size)
    for top, strip in strips(image):
        same = ImageMath.lambda_eval(lambda given: (given["values"] == value) * 255, values=strip.convert("I"))
        mask.paste(same.convert("L"), (0, top))
    return mask
